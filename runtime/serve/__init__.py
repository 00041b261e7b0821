"""`pumice serve`: bundles behind HTTP, in the dialects that local programs speak. docs/serve.md has how to use it.

Enters: HTTP requests. Leaves: answers, whole or piece by piece; errors in the dialect's own form.

    uvicorn ─▶ front ─▶ routes ─▶ openai / ollama ─▶ questions ─▶ answers ─▶ Engine
               keys,    a table   what was asked,    checked      pieces, on their way
               hosts,             in our terms       before any   into the event loop
               limits                                work         ─▶ streamed

    A model is held by a lease while it answers. One bundle stays in memory; of several, `moving` loads and unloads as
    the rules of `residence` say.

`app.make_app` makes an ASGI app of `settings.Settings`; `lifecycle.serve` runs it until SIGTERM.
"""
