"""`simple-ws token`: what it prints is a token, and what is wrong is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from simple_ws.cli import main
from simple_ws.tokens import Tokens

pytestmark = pytest.mark.one_backend

SECRET = "a secret of at least thirty-two bytes"
VARIABLE = "SIMPLE_WS_TOKEN_SECRET"


@pytest.fixture(autouse=True)
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["token", *arguments]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert out.count("\n") == 1
    return out.strip()


def test_token_of_a_connection(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--secret", SECRET, "--user", "ann", "--expires", "2h"]
    token = made(capsys, *arguments, "--info", '{"name": "Ann"}')
    claims = Tokens(SECRET).verify_connection(token)
    assert (claims.user, claims.info) == ("ann", {"name": "Ann"})
    assert claims.expires_at is not None
    assert abs(claims.expires_at - time.time() - 7200) < 600


def test_token_of_a_subscription(capsys: pytest.CaptureFixture[str]) -> None:
    token = made(capsys, "--secret", SECRET, "--user", "ann", "--channel", "room:7")
    claims = Tokens(SECRET).verify_subscription(token)
    assert (claims.user, claims.channel) == ("ann", "room:7")


def test_secret_of_the_environment_or_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    Tokens(SECRET).verify_connection(made(capsys))
    file = tmp_path / "secret"
    file.write_text(f"{SECRET} of a file\n")
    token = made(capsys, "--secret-file", str(file), "--expires", "never")
    claims = Tokens(f"{SECRET} of a file").verify_connection(token)
    assert (claims.user, claims.expires_at) == ("", None)


def test_audience_and_issuer(capsys: pytest.CaptureFixture[str]) -> None:
    token = made(capsys, "--secret", SECRET, "--audience", "live", "--issuer", "me")
    Tokens(SECRET, audience="live", issuer="me").verify_connection(token)


def test_short_secret_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--secret", "secret"]) == 2
    assert "secret has 6 bytes, and needs 32" in capsys.readouterr().err
    token = made(capsys, "--secret", "secret", "--allow-short-secret")
    Tokens("secret", allow_short_secret=True).verify_connection(token)


def test_no_secret_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--user", "ann"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert VARIABLE in error


def test_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--secret-file", "/nowhere/secret"]) == 1
    assert "/nowhere/secret" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--expires", "soon"], ["--expires", "0"], ["--expires", "1y"], ["--info", "{"]],
    ids=str,
)
def test_wrong_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", "--secret", SECRET, *wrong])
    assert ended.value.code == 2
    assert wrong[1] in capsys.readouterr().err
