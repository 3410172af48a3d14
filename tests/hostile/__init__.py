"""What comes from outside and means no good, or is only broken: generated here, tried at every door.

grammar.py    our own reading of JSON, apart from the program's: the oracle
json_texts.py hundreds of small JSON texts, each with what must become of it
messages.py   messages for the bus, valid and mutated, from a seed; and what must become of each
"""
