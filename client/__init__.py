"""A client of rankserver: a pure protocol session, an asyncio shell over it, and a console."""
