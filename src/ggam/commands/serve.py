"""`ggam serve`."""

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from ggam.deploy.predictor import open_predictor
from ggam.deploy.serve.limits import Limits, ServeError
from ggam.system.console import CONSOLE

_LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: Annotated[str | None, Parameter(env_var="GGAM_TOKEN")] = None,
    device: str = "auto",
    threads: int | None = None,
    examples: Path | None = None,
    limits: Annotated[Limits, Parameter(name="*", group="Limits")] = Limits(),
) -> None:
    """Answer requests for predictions over HTTP, and show a page for people.

    Args:
        model: A run directory, a model folder or hub id, or a file of ggam export.
        host: The address to listen on; 0.0.0.0 lets other machines in.
        port: The port to listen on; 0 takes a free one.
        token: What callers must send as Authorization: Bearer TOKEN; default: everybody may ask.
        device: cpu, cuda, mps, or auto for the best there is.
        threads: Processor threads for one batch; default: chosen by the library that runs the model.
        examples: A folder with pictures of the classes, 0.jpg for the first; default: MODEL/examples.
        limits: What is taken on.
    """
    try:
        from ggam.deploy.serve.app import create_app
        from ggam.deploy.serve.examples import Examples
        from ggam.deploy.serve.server import listen, run
    except ImportError as error:
        raise ServeError(
            f"ggam serve needs more packages ({error.name}): pip install 'ggam[serve]'"
        ) from error
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise ServeError("--token: expected ASCII letters, digits or signs, without spaces")
    with listen(host, port) as listener:
        predictor = open_predictor(model, device=device, threads=threads)
        count = len(predictor.class_names)
        pictures = Examples(examples, count) if examples else Examples.beside(Path(model), count)
        # The first batch takes longer than others; better now than when somebody waits.
        predictor.predict(torch.zeros(1, 3, predictor.transform.image_size, predictor.transform.image_size))
        address, bound = listener.getsockname()[:2]
        place = f"[{address}]" if ":" in address else address

        def announce() -> None:
            if host not in _LOCAL and token is None:
                print(f"ggam: anybody who reaches {host} may ask; see --token", file=sys.stderr)
            CONSOLE.print(f"{count} classes at http://{place}:{bound} (Ctrl-C ends it)", soft_wrap=True)

        app = create_app(predictor, limits, token=token, examples=pictures)
        with suppress(KeyboardInterrupt):
            run(app, listener, grace=limits.timeout, on_start=announce)
