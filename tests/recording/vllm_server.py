"""A local server that speaks the protocol of TRL's client of vLLM, and samples from a model in this process."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from probe import LM

FACTS = {
    "/v1/models": {"data": [{"id": "tiny"}]},
    "/server_info": {"vllm_config": {"model_config": {"logprobs_mode": "processed_logprobs"}}},
}


@contextmanager
def serve(lm: LM) -> Iterator[tuple[str, list[str]]]:
    """Yield the address, and the list of paths that are asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.answer(FACTS.get(self.path.partition("?")[0], {}))

        def do_POST(self) -> None:
            asked.append(self.path)
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.answer(complete(lm, json.loads(text), len(asked)) if self.path == "/v1/completions" else {})

        def answer(self, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def complete(lm: LM, asked: dict[str, Any], seed: int) -> dict[str, Any]:
    """The choices of `/v1/completions`: all of a prompt, then those of the next."""
    made = lm.generate(
        asked["prompt"], n=asked["n"], max_new_tokens=asked["max_tokens"], temperature=asked["temperature"], seed=seed
    )
    choices = []
    for n in range(len(made.tokens)):
        real = made.mask[n]
        ids, values = made.tokens[n][real].tolist(), made.logprobs[n][real].tolist()
        names = [f"token_id:{token}" for token in ids]
        tops = [{name: value} for name, value in zip(names, values, strict=True)]
        logprobs = {"tokens": names, "token_logprobs": values, "top_logprobs": tops}
        prompt = asked["prompt"][n // asked["n"]]
        choices.append({"prompt_token_ids": prompt, "token_ids": ids, "logprobs": logprobs})
    return {"choices": choices}
