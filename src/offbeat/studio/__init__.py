"""The studio: a page, and the HTTP API behind it, for exploring without reading a paper.

Thin: what it does goes through ``offbeat.verbs``, as a Python user's would. See ``docs/studio.md``.
It needs the extra ``studio``; importing this package loads nothing of it.
"""
