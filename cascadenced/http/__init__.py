"""HTTP: pages, answers and controls on TCP, the verbs on the owner's Unix socket. Floor 6.

app.py        the two applications, and `serve`, which opens both
routes.py     the table of what everybody may ask, with GET; app, OpenAPI document and tests read it
control.py    the table of what may be asked by who says their name (auth.py), with POST
work.py       a verb that is performed for a request, past the end of its connection
body.py       the bytes that come with it
local.py      what only the socket offers: the verbs, and the stop
face.py       what every handler needs
query.py      path and query string → the struct of a route's arguments
guard.py      who may ask: Host, Origin, token
replies.py    values and refusals → responses; headers that all of them carry
health.py     how the instance is, in one word and its reasons
stream.py     the log as server-sent events
listen.py     sockets, and what may go wrong with them
openapi.py  asyncapi.py   the documents, made from the structs (that of the events: events/schema.py)
page.py  cells.py  html.py  static/ the pages for people

Webhooks will be a table of their own beside `routes.READ` and `control.CONTROL`, in `app.py`.
"""
