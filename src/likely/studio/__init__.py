"""The studio: a local web page for people who would rather look than read. Every button is one call of a task.

`app` puts the page together, one module a tab (`runs`, `ask`, `make`, `complete`, `compare`, `train`); `shelf` keeps
models and what was measured of them, `server` and `guard` serve it and keep others out, `look`, `charts` and
`pieces` are what it looks like.
"""
