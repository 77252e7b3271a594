"""Secrets stay out of everything that a run stores or prints."""

from __future__ import annotations

import asyncio
import logging
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.cli import _stderr, main
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.folder import RunFolder
from pipeline.core.lock import run_lock
from pipeline.core.row import Candidate, Row, RowError
from pipeline.core.safety import find_secrets, is_variable_name, redact
from pipeline.engines.base import Engine, SamplingParams
from pipeline.engines.openai import OpenAIEngineConfig
from pipeline.execution.observe import job_log
from pipeline.jobs.job import update_manifest
from pipeline.sampling.plans import Hedged
from pipeline.sampling.stage import GenerateStage
from pipeline.selection.base import Choice, Pool, Selector
from pipeline.selection.stage import SelectStage
from tests.conftest import run_with_prompts
from tests.execution.test_worker import made, shards, worker_of

KEY = "opaque-4711-key-of-the-test"
_TAIL = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ"
TOKENS = [
    *(
        begin + _TAIL
        for begin in ("gsk_", "github_pat_11", "glpat-", "xai-", "sk-ant-api03-", "sk-proj-", "hf_", "npm_")
    ),
    *(begin + _TAIL for begin in ("pplx-", "nvapi-", "r8_", "csk-", "tgp_v1_", "xoxb-", "hvs.", "sk_live_", "ghp_")),
    "AIza" + _TAIL + "123456789",
    "sk-or-v1-" + "0a1b" * 16,
    "sk-" + "0a1b2c3d" * 4,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
]
SLOWEST = 5.0  # seconds for a hundred thousand characters on a busy machine; most take 0.1 s


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (f"refused: {KEY}", KEY),
        ("Authorization: Bearer abcdefghi", "abcdefghi"),
        ("sent Bearer abc.def-ghi123", "abc.def-ghi123"),
        ('{"Authorization": "Bearer abcdefghi"}', "abcdefghi"),
        ("authorization: basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        ("cannot reach https://me:hunter2@host/v1", "hunter2"),
        ("GET /v1?model=x&api_key=hunter2&n=1", "hunter2"),
        ("https://b.example/f?X-Amz-Signature=deadbeef", "deadbeef"),
        ("""{"api_key": "hunter2"}""", "hunter2"),
        ("{'Authorization': 'hunter2'}", "hunter2"),
        ("token hf_AbCdEfGhIjKlMnOpQrSt", "hf_AbCdEfGhIjKlMnOpQrSt"),
        ("sk-proj-A1b2C3d4E5f6G7h8", "sk-proj-A1b2C3d4E5f6G7h8"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("x-api-key: hunter2", "hunter2"),
        ("{'X-Goog-Api-Key': ['hunter2']}", "hunter2"),
        ('{"password": 12345678}', "12345678"),
        ("password=hunter2&x", "hunter2"),
        ("at http://me:p@ss/w@head:8265 refused", "ss/w"),
        (r"{\"api_key\": \"zzTopSecret123\"}", "zzTopSecret123"),
        (r"{\\\"x-api-key\\\":\\\"zzTopSecret\\\"}", "zzTopSecret"),
        (r"{\"password\": \"zzTopSecret\"}", "zzTopSecret"),
        ("Authorization: Bearer\n abcdefghi", "abcdefghi"),
        (r'{"error": "Authorization: Bearer\r\n abcdefghi"}', "abcdefghi"),
        ("sent Bearer\r\n abc.def-ghi123", "abc.def-ghi123"),
        ("{'Authorization': b'Bearer abc123def456'}", "abc123def456"),
        ("{'Authorization': b'Basic abcdefghi'}", "abcdefghi"),
        ("{'password': b'zzTopSecret'}", "zzTopSecret"),
        ("(b'x-api-key': [b'zzTopSecret'])", "zzTopSecret"),
        *((f"bad key {key}.", key) for key in TOKENS),
    ],
)
def test_redaction(text: str, gone: str) -> None:
    shown = redact(text)
    assert gone not in shown and "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "the answer is 42; key = value, see https://example.org/a@b?page=2",
        "basic understanding-of-arithmetic, bearer certificates, token count 12, sk-learn-experiments-of-the-year",
        "user@example.org wrote: the password is the secret of the treasure",
    ],
)
def test_ordinary_texts_stay(text: str) -> None:
    assert redact(text) == text


HOSTILE = {
    unit: unit * (100_000 // len(unit))
    for unit in (
        *("sk-", "sk-A1", "sk_live_", "eyJ", "eyJa.", "a://", "://a:", "://:", "bearer ", "bearer-", "authorization "),
        *("authorization=", "?key", "&a.", "x-api-key", "api_key:", "'secret' ", '"api_key":"', "hf_", "AKIA", "AIza"),
        *(
            "-----BEGIN PRIVATE KEY-----",
            "-",
            "_",
            ".",
            " ",
            "a",
            "@",
            "://a:b@",
            "password=",
            "cookie: ",
            '"',
            "token",
            '\\"api_key\\": \\"',
            "api_key=\\\\",
            "\\",
            "Bearer\n",
            "authorization: bearer\\n",
            "'password': b'",
        ),
    )
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_redaction_takes_time_linear_in_the_text(text: str) -> None:
    start = time.process_time()
    redact(text)
    redact("?" + text)
    assert time.process_time() - start < SLOWEST


def test_a_long_text_is_cut_before_it_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(1960, 2010, 7):  # a key across the cut leaves no half
        assert KEY[:8] not in redact("x" * at + KEY + "y" * 100_000, 2000)
    many = f"{KEY} " * 5_000
    assert KEY[:8] not in redact(many, 2000) and len(redact("ordinary words " * 10**5, 2000)) == 2000
    seen: list[int] = []
    monkeypatch.setattr("pipeline.core.safety._redacted", lambda text: seen.append(len(text)) or text)
    redact("x" * 10**7, 2000)
    assert seen == [2000 + 2 * 4096]


@pytest.mark.parametrize(
    ("word", "where"),
    [
        (f"report.note=mine {KEY}", "report.note"),
        ("winrate.games=s3://access:hunter2@bucket/games.parquet", "winrate.games"),
        ("engines.generator={kind: vllm, model: m, engine_args: {hf_token: hunter2}}", "engines.generator.engine_args"),
        (
            "engines.generator={kind: openai, model: m, extra_body: {headers: [Bearer hunter2hunter]}}",
            "extra_body.headers[0]",
        ),
        ("out=s3://access:hunter2@bucket/run", "out"),
        ("engines.generator={kind: openai, model: m, extra_body: {x-api-key: [hunter2]}}", "extra_body.x-api-key"),
        ("engines.generator={kind: openai, model: m, extra_body: {password: 12345678}}", "extra_body.password"),
        ("engines.generator={kind: openai, model: m, extra_body: {h: [[apiKey, hunter2]]}}", "extra_body.h[0][1]"),
        ("engines.generator={kind: openai, model: m, extra_body: {h: {name: X-Api-Key, value: hunter2}}}", "h.value"),
        *((f"report.note={token}", "report.note") for token in TOKENS),
    ],
)
def test_a_config_with_a_secret_is_refused_before_it_is_stored(
    word: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "dummy", word]) == 2
    said = capsys.readouterr().err
    assert where in said and "environment variable" in said
    assert KEY not in said and "hunter2" not in said and "12345678" not in said and _TAIL not in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("key", ["0a1b2c3d4e5f60718293a4b5c6d7e8f9", "A1b2C3d4E5f6G7h8I9j0K1l2", "my key", *TOKENS])
@pytest.mark.parametrize("place", ["engines.generator.api_key_env", "ray.env[0]"])
def test_a_key_where_a_variables_name_belongs_is_refused_unprinted(
    key: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["engines.generator={kind: openai, model: m}", f"engines.generator.api_key_env={key}"]
    words = words if "api_key_env" in place else [f"ray.env=[{key}]"]
    assert main(["generate", "dummy", *words, f"out={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr()
    assert place in said.err and key not in said.err + said.out and not (tmp_path / "out").exists()


def test_the_names_of_variables_are_taken() -> None:
    names = ["OPENAI_API_KEY", "my_key", "LOGIN", "AZURE_OPENAI_API_KEY_EASTUS2", "KEY_2024"]
    assert all(map(is_variable_name, names)) and not is_variable_name("") and not is_variable_name("A-B")


def test_a_variable_that_the_config_names_is_a_secret_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGIN_4712", "x9y8z7-no-secret-by-name")
    assert redact("x9y8z7-no-secret-by-name") != "***"
    load_config(["dummy", "engines.other={kind: openai, model: m, api_key_env: LOGIN_4712}"])
    assert redact("x9y8z7-no-secret-by-name") == "***"


@pytest.mark.parametrize(
    "address", ["http://me:hunter2@head:8265", "http://hunter2@head:8265", "http://h?token=hunter2"]
)
@pytest.mark.parametrize("job", ["submit", "status", "stop"])
def test_a_password_in_the_clusters_address_is_refused(
    job: str, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dummy", f"out={tmp_path / 'out'}"] if job == "submit" else ["lemonpress-run-1"]
    assert main([job, *words, "--address", address]) == 2
    said = capsys.readouterr()
    assert "RAY_AUTH_TOKEN" in said.err and "hunter2" not in said.err + said.out
    assert not (tmp_path / "out").exists()


def test_lock_and_manifest_hold_no_secret(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lemonpress", "run", f"report.note={KEY}"])
    with run_lock(run):
        assert "***" in run.read_json("work", "lock.json")["command"]
    update_manifest(run, {"jobs": {"run": {"error": f"no {KEY}", "list": [{"x": KEY}]}}})
    assert KEY not in str(run.read_text("manifest.json")) and KEY not in str(run.read_text("work", "lock.json"))


def test_names_that_only_sound_like_secrets_are_taken() -> None:
    assert not list(find_secrets({"eos_token": "</s>", "max_tokens_field": "x", "api_key_env": "MY_KEY", "token": ""}))


@pytest.mark.parametrize("spelt", ["${oc.env:SOME_API_KEY}", "${ oc.env:SOME_API_KEY}", r"\${oc.env:SOME_API_KEY}"])
def test_environment_variables_do_not_get_into_the_config(spelt: str) -> None:
    with pytest.raises(ConfigError, match=r"report\.title.*environment"):
        load_config(["dummy", f"report.title={spelt}"])


def test_not_even_when_the_resolver_is_spelt_by_another_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARMLESS", "a plain value")  # no secret by name or form: only the resolver stops it
    with pytest.raises(ConfigError, match="environment"):
        load_config(["dummy", "report.note=env", "report.title=${oc.${report.note}:HARMLESS}"])
    from omegaconf import OmegaConf

    assert OmegaConf.create({"a": "${oc.env:HARMLESS}"}).a == "a plain value"  # other users of the library keep it


class Echo(BaseHTTPRequestHandler):
    """An endpoint that answers with an error that holds the request's own headers, as careless proxies do."""

    def do_POST(self) -> None:
        body = f'{{"error": {{"message": "bad request: {self.headers["Authorization"]} SOME {KEY}"}}}}'.encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_an_endpoint_that_echoes_the_key_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGIN", "x1y2z3-not-named-like-a-secret")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    config = OpenAIEngineConfig(
        model="m", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key_env="LOGIN", retries=0
    )

    run = run_with_prompts(tmp_path, 1)
    worker_of(run, GenerateStage("hedged", Hedged(max_tokens=4, n=2), 1), config)(shards(0))
    (stored,) = made(run)
    server.shutdown()
    assert len(stored["errors"]) == 1 and all(c["error"] for c in stored["candidates"])
    assert "bad request" in str(stored) and "***" in str(stored)
    assert "x1y2z3" not in str(stored) and KEY not in str(stored)


class Leaky(Selector):
    """A selector whose exception holds keys, one of them where the message is cut."""

    async def select(self, pool: Pool) -> Choice:
        raise ValueError(f"cannot log in with {KEY}".ljust(1990) + KEY)


def test_errors_of_stages_hold_no_secret() -> None:
    row = Row(1, "p", candidates=[Candidate(text="a", plan="x")])
    engine: Engine | None = None
    row = asyncio.run(SelectStage("leaky", Leaky(), ("x",), 1)(row, engine))
    assert "cannot log in" in str(row.errors) and "cannot log in" in str(row.selections[0].detail)
    assert KEY[:8] not in str(row)
    assert KEY not in str(EngineRequestError(f"no {KEY}")) and KEY not in RowError("j", "s", "k", KEY).message


def test_logs_hold_no_secret(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pipeline.test")
    person = _stderr()
    logger.addHandler(person)
    with job_log(run, "generate", "r1") as path:
        fields = {"error": f"Bearer {KEY}", "row_id": 7, "jobs": [{"error": KEY}]}
        logger.warning("failed with %s", KEY, extra={"fields": fields})
    logger.removeHandler(person)
    text = Path(path).read_text()
    assert '"row_id": 7' in text and text.count("***") == 3 and KEY not in text
    assert "failed with ***" in capsys.readouterr().err


def test_sampling_parameters_are_no_secret() -> None:
    assert "***" not in redact(repr(SamplingParams(choice=('{"key": "value"}',))))
