"""offhook.toml and the environment: every error names the key and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import SettingsError
from engine.settings import Settings, load_settings, with_server


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "offhook.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ or {})


def test_without_a_file_the_engine_answers_on_this_machine_only() -> None:
    settings = load_settings(None, {})
    assert settings.server.host == "127.0.0.1"
    assert settings.first_agent == "desk"
    assert settings.max_calls >= 15


def test_a_file_is_read_into_typed_values(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        default_agent = "b"
        [server]
        port = 9000
        trusted_proxies = ["10.0.0.1"]
        [limits]
        max_calls = 7
        silence_s = 3
        [agents.a]
        script = "appointment_desk"
        [agents.b]
        factory = "my.module:make"
        [agents.b.options]
        voice = "x"
        [lines]
        "+1 (555) 010-0000" = "a"
        """,
    )
    assert (settings.server.port, settings.server.trusted_proxies) == (9000, ("10.0.0.1",))
    assert (settings.max_calls, settings.limits.silence_s) == (7, 3.0)
    assert settings.agents["b"].options == {"voice": "x"}


@pytest.mark.parametrize("dialled", ["+15550100000", "15550100000", "+1 555 010 0000", "+1-555-010-0000"])
def test_a_dialled_number_finds_its_agent_however_it_is_spelt(tmp_path: Path, dialled: str) -> None:
    settings = load(tmp_path, '[agents.a]\n[agents.b]\n[lines]\n"+1 (555) 010-0000" = "b"\n')
    assert settings.agent_for(dialled) == "b"
    assert settings.agent_for("+4930123456") == "a"
    assert settings.agent_for("anonymous") == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = '80'", "server.port: expected a whole number, got '80'"),
        ("[server]\nport = 70000", "server.port: expected at most 65535, got 70000"),
        ("[server]\nprt = 80", "server.prt: there is no such setting; did you mean port?"),
        ("[limits]\nmax_calls = true", "limits.max_calls: expected a whole number, got True"),
        ("[limits]\nmax_calls = -1", "limits.max_calls: expected at least 0, got -1"),
        ("[limits]\nsilence_s = nan", "limits.silence_s: expected a number, got nan"),
        ("[limits]\nclose_s = inf", "limits.close_s: expected a number, got inf"),
        ("[vendors.depgram]\nmodel = 'x'", "vendors.depgram.kind: there is no kind 'depgram'; did you mean deepgram?"),
        ("[limits]\nsilence_s = 'x'", "limits.silence_s: expected a number, got 'x'"),
        ("[limit]\nmax_calls = 1", "limit: there is no such setting; did you mean limits?"),
        ("limits = 5", "limits: expected a table"),
        ("[vonage]\nrate_hz = 44100", "vonage.rate_hz: expected one of 8000, 16000, 24000, got 44100"),
        ("[log]\nlevel = 'loud'", "log.level: expected one of debug, info, warning, error, got 'loud'"),
        ("[agents]", "agents: expected at least one agent, such as [agents.desk]"),
        ("[agents.a]\nscrpt = 'x'", "agents.a.scrpt: there is no such setting; did you mean script?"),
        ("[agents.a]\nscript = 5", "agents.a.script: expected a string, got 5"),
        ("[agents.a]\nmodel = []", "agents.a.model: expected at least one, such as 'script'"),
        ("[agents.a]\ntranscriber = ''", "agents.a: vendor '': expected a table"),
        ("[agents.a]\nmodel = ['openai', 'openai']", "agents.a.model: expected each once"),
        ("[agents.a]\nmodel = 'embedded'", "agents.a.model: 'embedded' cannot be a model"),
        ("[agents.a]\nsynthesizer = 'script'", "agents.a.synthesizer: 'script' cannot be a synthesizer"),
        ("[agents.a]\nrealtime = 'openai_realtime'\nrelay = true", "agents.a.relay: either this or realtime"),
        ("default_agent = 'x'", "default_agent: there is no agent 'x'; there are: desk"),
        ("[lines]\n'+1555' = 'x'", "lines.+1555: there is no agent 'x'; there are: desk"),
        ("[secrets]\na = 1", "secrets: keys come from the environment"),
        ("[server]\npublic_url = 'ftp://x'", "server.public_url: expected an address such as https://"),
        ("[server]\npublic_url = 'https://'", "server.public_url: expected an address such as https://"),
        ("[server]\npublic_url = 'https://x:port'", "server.public_url: expected an address such as https://"),
        ("[server]\ntrusted_proxies = ['bogus']", "server.trusted_proxies: expected IP addresses, got 'bogus'"),
        (
            "[twilio]\napi_url = 'nope'",
            "twilio.api_url: expected an address such as https://api.twilio.com, got 'nope'",
        ),
        (
            "[vonage]\napi_url = 'a://b'",
            "vonage.api_url: expected an address such as https://api.nexmo.com, got 'a://b'",
        ),
        (
            "[telnyx]\napi_url = 'nope'",
            "telnyx.api_url: expected an address such as https://api.telnyx.com, got 'nope'",
        ),
        ("[plivo]\napi_url = ''", "plivo.api_url: expected an address such as https://api.plivo.com, got ''"),
        (
            "[signalwire]\napi_url = 'example.signalwire.com'",
            "signalwire.api_url: expected an address such as https://example.signalwire.com, got",
        ),
        ("[relay]\ninterruptible = 'maybe'", 'relay.interruptible: expected one of "", none, dtmf, speech'),
        ("[relay.options]\nvoice = 5", "relay.options.voice: expected a string, got 5"),
        ("[lines]\nhello = 'desk'", "lines.hello: expected a phone number, such as +15550100000"),
        (
            "[lines]\n'+1 (555) 010-0000' = 'desk'\n'15550100000' = 'desk'",
            "lines.15550100000: expected each number once, it is +1 (555) 010-0000 too",
        ),
        ("[server", "not valid TOML"),
    ],
)
def test_an_error_names_the_key_and_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value).partition("TOML")[0]


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: no such file"):
        load_settings(Path("nowhere.toml"), {})


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, "[limits]\nmax_calls = 7", {"OFFHOOK_LIMITS_MAX_CALLS": "9", "OFFHOOK_SERVER_PORT": "1"})
    assert (settings.max_calls, settings.server.port) == (9, 1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OFFHOOK_LIMITS_MAX_CALLS", "many", "OFFHOOK_LIMITS_MAX_CALLS: expected a whole number, got 'many'"),
        ("OFFHOOK_LIMITS_MAX_CALL", "1", "there is no setting limits.max_call; did you mean max_calls?"),
        ("OFFHOOK_NOPE", "3", "OFFHOOK_NOPE: expected OFFHOOK_TABLE_KEY with one of the tables server, limits,"),
        ("OFFHOOK_SERVER", "x", "OFFHOOK_SERVER: expected OFFHOOK_TABLE_KEY with one of the tables"),
        ("OFFHOOK_SERVER_TRUSTED_PROXIES", "10.0.0.1,x", "server.trusted_proxies: expected IP addresses, got 'x'"),
        ("TWILIO_AUTH_TOKEN_FILE", "nowhere", "TWILIO_AUTH_TOKEN_FILE: the file it names cannot be read"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {name: value})
    assert message in str(caught.value)


def test_secrets_come_from_the_environment_or_a_file_and_hide_from_repr(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret-b\n", encoding="utf-8")
    environ = {"TWILIO_AUTH_TOKEN": "s3cret-a", "VONAGE_SIGNATURE_SECRET_FILE": str(tmp_path / "key")}
    settings = load_settings(None, environ)
    assert settings.secrets.twilio_auth_token == "s3cret-a"
    assert settings.secrets.vonage_signature_secret == "s3cret-b"
    assert "s3cret" not in repr(settings)


def test_accounts_of_providers_come_from_their_own_variables_where_the_settings_say_nothing(tmp_path: Path) -> None:
    environ = {
        "TWILIO_ACCOUNT_SID": "AC1",
        "VONAGE_APPLICATION_ID": "app",
        "TELNYX_ACCOUNT_SID": "t1",
        "TELNYX_APPLICATION_ID": "t2",
        "PLIVO_AUTH_ID": "MA1",
        "SIGNALWIRE_PROJECT_ID": "p1",
        "OFFHOOK_RELAY_VOICE": "v",
    }
    settings = load(tmp_path, "[plivo]\nauth_id = 'MA0'\n[vonage]\nrate_hz = 8000\n", environ)
    assert settings.twilio.account_sid == "AC1"
    assert (settings.vonage.application_id, settings.vonage.rate_hz) == ("app", 8000)
    assert (settings.telnyx.account_sid, settings.telnyx.application_id) == ("t1", "t2")
    assert settings.plivo.auth_id == "MA0"
    assert settings.signalwire.project_id == "p1"
    assert settings.relay.voice == "v"


def test_variables_of_the_tests_and_of_grafana_are_left_alone() -> None:
    assert load_settings(None, {"OFFHOOK_REQUIRE_SERVERS": "1", "OFFHOOK_DASHBOARDS": "/x"}) == load_settings(None, {})


def test_flags_go_over_the_settings_and_are_checked_alike() -> None:
    settings = load_settings(None, {"OFFHOOK_SERVER_HOST": "10.0.0.1"})
    assert with_server(settings) == settings
    assert with_server(settings, port=0).server.port == 0
    assert with_server(settings, host="::1", port=1).server.host == "::1"
    with pytest.raises(SettingsError, match=r"server\.port: expected at most 65535, got 80000"):
        with_server(settings, port=80000)
