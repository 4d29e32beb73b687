"""The program: a console for people, a filter for scripts, and an executor of commands.

It uses the library ``rankserver.client`` as any other program would.
"""
