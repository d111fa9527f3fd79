"""``offhook doctor`` finds what would keep calls from being recorded, and from being made."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from engine.assembly import Engine
from engine.cli.doctor_calls import outbound_findings, recording_findings
from engine.cli.findings import Verdict
from engine.errors import SettingsError
from engine.settings import AgentSettings, OutboundSettings, RecordingSettings, Secrets, Settings, TwilioSettings
from tests.adapters.providers.rest_api import rest_api

OURS = "+15550100000"


async def test_a_directory_that_cannot_be_made_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory, verdict in ((tmp_path / "new" / "below", Verdict.OK), (tmp_path / "file" / "x", Verdict.FAILED)):
        settings = Settings(recording=RecordingSettings(True, directory=str(directory)))
        (found,) = await recording_findings(settings)
        assert (found.check, found.verdict) == ("recording", verdict), found.detail
        assert str(directory) in found.detail
        with nullcontext() if verdict is Verdict.OK else pytest.raises(SettingsError, match=r"recording\.directory"):
            Engine(settings)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("status", "verdict"), [(200, Verdict.OK), (403, Verdict.FAILED)])
async def test_a_bucket_that_refuses_the_keys_is_found(status: int, verdict: Verdict) -> None:
    nothing = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>'
    async with rest_api(lambda _: (status, nothing)) as api:
        recording = RecordingSettings(True, bucket="calls", endpoint=api.base, announce="This call is recorded.")
        settings = Settings(
            recording=recording,
            agents={"a": AgentSettings(relay=True), "b": AgentSettings(realtime=("openai_realtime",))},
            secrets=Secrets(aws_access_key_id="id", aws_secret_access_key="secret"),
        )
        bucket, relayed = await recording_findings(settings)
    assert bucket.verdict is verdict, bucket.detail
    assert [request.method for request in api.requests] == ["GET"]
    assert relayed.detail.startswith("calls of a are not recorded")


@pytest.mark.parametrize(
    ("secrets", "account", "verdict", "detail"),
    [
        (Secrets(), "AC1", Verdict.FAILED, "twilio is not configured; set TWILIO_AUTH_TOKEN"),
        (Secrets(twilio_auth_token="t"), "", Verdict.FAILED, "twilio cannot make calls; set TWILIO_ACCOUNT_SID"),
        (Secrets(twilio_auth_token="t"), "AC1", Verdict.OK, "calls over twilio"),
    ],
)
def test_a_number_that_cannot_be_called_from_is_found(
    secrets: Secrets, account: str, verdict: Verdict, detail: str
) -> None:
    outbound = OutboundSettings(True, {OURS: "twilio"}, allow=("+1202",))
    settings = Settings(outbound=outbound, secrets=secrets, twilio=TwilioSettings(account_sid=account))
    (found,) = outbound_findings(settings)
    assert (found.check, found.verdict) == (f"outbound {OURS}", verdict)
    assert detail in found.detail
    nowhere, _ = outbound_findings(replace(settings, outbound=replace(outbound, allow=())))
    assert nowhere.detail == "outbound.allow is empty: no number may be called"
