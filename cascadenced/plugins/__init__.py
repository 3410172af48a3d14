"""Other people's tasks. Floor 5.

base.py       the base classes a task may use; none is needed
options.py    what a class asks for with its attributes → its policy
describe.py   a class, an object or a marked function → TaskEntry, or a refusal that says why
importable.py from where another process can import a task's code
discover.py   entry points, approved paths and built-ins → Catalogue
misspelt.py   what looks like a hook or an option, and is none
builtin.py    the tasks and the workflow that come with us
"""
