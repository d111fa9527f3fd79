"""What ElevenLabs Agents and we say to each other over one socket. Pure."""

from __future__ import annotations

import math
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import structlog

from adapters.realtime.caller import LOST_S, CallerSpeech
from adapters.realtime.conversing import Line
from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.elevenlabs.protocol import FORMATS, overrides_of, why_closed, why_of_error
from adapters.realtime.fields import audio_of, id_of, json_of, needed_number_of
from adapters.realtime.replies import Replies, Reply
from adapters.realtime.shown import story_of, turns_of
from engine.audio.convert import Converter
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import AudioFormat, Context, ReplyCorrected, SessionInfo, ToolCall, ToolResult
from engine.runtime.feed import Message
from engine.runtime.vendor_json import dict_of, object_of, packed, text_of, word_of

END_CALL = "end_call"
"""The agent's own tool, and what ours is called."""
HANG_UP = "hang_up"
SAY = '[Say exactly these words to the caller, and nothing else: "{}"]'
GAP_S = 1.0
"""A reply of which no sound has come for so long is over, where the agent does not say so itself."""
OPENING_S = 2.0
"""An opening that the agent makes by itself has not come after so long: it has none."""
QUIET_S = 0.3
"""A low ``vad_score`` for so long: the caller has stopped."""
NOISE_S = 2.0
"""Loud, as ``vad_score`` has it, and no words so long after: it was a cough. The vendor does not say so."""
HEARD_ON = 'What cut you off was a noise and no words. The caller has heard you go on: "{}"'
log = structlog.get_logger()


class ElevenLabsAgentsWire:
    """Implements ``adapters.realtime.conversing.Wire``.

    The vendor names no replies: one begins with the first sound or words after the caller's, or after another was over.
    """

    def __init__(self, config: ElevenLabsAgentsConfig, session: SessionInfo, context: Context, line: Line) -> None:
        self.url = f"{config.url}?{urlencode({'agent_id': config.agent})}"
        self.headers = {"xi-api-key": config.key}
        self.is_ready = False
        self.errors = 0
        self._config = config
        self._session = session
        self._context = context
        self._story = story_of(turns_of(context))
        self._line = line
        self._converter = Converter(line.format, line.format)
        self._caller = CallerSpeech(line.lanes, line.now, noise_s=NOISE_S)
        self._speeches = 0
        self._loud_at_s = -math.inf
        self._replies = Replies(line.format, line.format, line.lanes)
        self._numbers = 0
        self._reply: Reply | None = None
        """The one that is being made."""
        self._spoke_at_s = -math.inf
        """When the last of it came."""
        self._has_parts = False
        self._has_stopped_itself = False
        """The vendor takes its last reply for cut off by the caller."""
        self._interrupted = -1
        """Sound up to this number is void."""
        self._heard_of = -1
        """The highest number of any sound."""
        self._is_muted = False
        """The caller cut in: the rest of that reply is dropped, until something begins anew."""
        self._is_opening = True
        """Nobody has said anything yet, nor asked us to: an opening of the agent's own waits here for its ``say``."""
        self._opening: list[dict[str, Any]] = []
        self._first = ""
        """What is to be said first, as long as an opening of the agent's own may come."""
        self._opening_until_s = math.inf
        self._opening_text = ""
        self._owed: set[str] = set()
        self._typed: deque[str] = deque(maxlen=16)
        """What went to the agent as the caller's words, and was not spoken."""
        self._why: Why | None = None
        """What the vendor's last error means, if it hangs up over it."""
        self._on: dict[str, Callable[[dict[str, Any]], None]] = {
            "conversation_initiation_metadata": self._on_ready,
            "ping": self._on_ping,
            "audio": self._on_sound,
            "agent_response": self._on_text,
            "agent_chat_response_part": self._on_text_part,
            "agent_response_complete": self._on_complete,
            "agent_response_correction": self._on_correction,
            "interruption": self._on_interruption,
            "user_transcript": self._on_words,
            "tentative_user_transcript": self._on_words_so_far,
            "vad_score": self._on_voice,
            "client_tool_call": self._on_tool,
            "agent_tool_response": self._on_tool_of_its_own,
            "error": self._on_error,
        }

    @property
    def kinds(self) -> Collection[str]:
        """The messages that are looked at."""
        return self._on.keys()

    @property
    def is_hearing(self) -> bool:
        return self._caller.is_speaking

    @property
    def due_at_s(self) -> float:
        gap_at_s = self._spoke_at_s + GAP_S if self._reply is not None or self._is_muted else math.inf
        lost_at_s = self._loud_at_s + LOST_S if self._caller.is_speaking else math.inf
        return min(self._caller.due_at_s, gap_at_s, lost_at_s, self._opening_until_s)

    def greet(self) -> None:
        config, session = self._config, self._session
        variables = {"session_id": session.session_id}
        if config.history_variable:
            variables[config.history_variable] = self._story
        self._send(
            {
                "type": "conversation_initiation_client_data",
                "conversation_config_override": overrides_of(
                    config, self._context, first_message=self._expected_opening()
                ),
                "dynamic_variables": variables,
                "user_id": session.session_id,
                **config.extra,
            }
        )

    def audio(self, audio: bytes) -> Message:
        return '{"user_audio_chunk":"' + b64encode(self._converter.feed(audio)).decode() + '"}'

    def receive(self, message: Message) -> None:
        said = object_of(message)
        kind = said.get("type")
        if not isinstance(kind, str):
            raise BadMessage("shape")
        if self._is_opening and kind in ("audio", "agent_response", "agent_response_complete"):
            self._keep_opening(kind, said)
        elif (handle := self._on.get(kind)) is not None:
            handle(said)

    def expire(self) -> None:
        now_s = self._line.now()
        self._caller.expire()
        if self._caller.is_speaking and self._loud_at_s + LOST_S <= now_s:
            self._caller.stopped(self._speech(), self._loud_at_s)
        if self._spoke_at_s + GAP_S <= now_s:
            self._is_muted = False
            self._end_reply(is_whole=True)
        if self._opening_until_s <= now_s:
            self._say_first()

    def say(self, text: str) -> None:
        """An opening that the agent has made by itself, and is these words, is what is said."""
        if not self._is_opening:
            self._type(SAY.format(text))
            return
        self._first = text
        has_own = "first_message" not in self._config.overrides
        if has_own and not self._opening_text:
            self._opening_until_s = self._line.now() + OPENING_S
        else:
            self._say_first()

    def told(self, text: str) -> None:
        self._begin_talk()
        self._type(text)

    def interrupt(self, reply_id: str, heard_s: float) -> None:
        """The vendor cannot be told to stop; it stops by itself when it hears the caller."""
        for reply, _ in self._replies.interrupt(reply_id, heard_s):
            if reply is self._reply:
                self._interrupted = max(self._interrupted, self._heard_of)
                self._is_muted = True
                self._end_reply(is_whole=False)

    def heard_on(self, text: str) -> None:
        """Nothing new to a vendor that has not heard the noise: it takes for heard what it has made."""
        if self._has_stopped_itself:
            self._send({"type": "contextual_update", "text": HEARD_ON.format(text)})

    def tool_results(self, results: Sequence[ToolResult]) -> None:
        for result in results:
            if result.call_id not in self._owed:
                log.debug("tool result unasked for", vendor=self._config.name)
                continue
            self._owed.discard(result.call_id)
            self._send(
                {
                    "type": "client_tool_result",
                    "tool_call_id": result.call_id,
                    "result": result.text,
                    "is_error": result.is_error,
                }
            )

    def why_closed(self, code: int | None) -> Why:
        return self._why or why_closed(code)

    # --- the session ----------------------------------------------------------------------------------------

    def _expected_opening(self) -> str:
        """Nothing in a session that goes on: its opening was said."""
        if self._story:
            return ""
        return self._opening_text or self._config.first_message.strip()

    def _on_ready(self, said: dict[str, Any]) -> None:
        about = dict_of(said, "conversation_initiation_metadata_event")
        speaks = self._format(text_of(about, "agent_output_audio_format"))
        hears = self._format(text_of(about, "user_input_audio_format") or text_of(about, "agent_output_audio_format"))
        if self.is_ready:
            return
        self._replies.source = speaks
        self._converter = Converter(self._line.format, hears)
        story = self._story
        if story and not self._config.history_variable:
            self._send({"type": "contextual_update", "text": story})
        self.is_ready = True

    def _format(self, name: str) -> AudioFormat:
        if name not in FORMATS:
            raise ModelFailed(self._config.name, "speaks in a format that is not known", why=Why.NONSENSE)
        return FORMATS[name]

    def _on_ping(self, said: dict[str, Any]) -> None:
        self._send({"type": "pong", "event_id": int(needed_number_of(dict_of(said, "ping_event"), "event_id"))})

    def _on_error(self, said: dict[str, Any]) -> None:
        """If it is the end, the vendor closes the connection."""
        error = dict_of(said, "error_event")
        self.errors += 1
        self._why = why_of_error(error)
        code = error.get("error_type") or error.get("code")
        log.info("realtime_vendor_error", vendor=self._config.name, code=word_of(code))

    def _on_tool(self, said: dict[str, Any]) -> None:
        call = dict_of(said, "client_tool_call")
        call_id, name = id_of(call, "tool_call_id"), id_of(call, "tool_name")
        arguments = json_of(call, "parameters")
        if call_id not in self._owed:
            self._owed.add(call_id)
            self._line.lanes.put(ToolCall(call_id, name, arguments))

    def _on_tool_of_its_own(self, said: dict[str, Any]) -> None:
        """That the agent ends the call is for us to do, after the goodbye; then the vendor hangs up."""
        done = dict_of(said, "agent_tool_response")
        if done.get("tool_name") == END_CALL and not done.get("is_error"):
            self._end_reply(is_whole=True)
            self._line.lanes.put(ToolCall(id_of(done, "tool_call_id"), HANG_UP, "{}"))

    # --- the caller -----------------------------------------------------------------------------------------

    def _on_voice(self, said: dict[str, Any]) -> None:
        score, now_s = needed_number_of(dict_of(said, "vad_score_event"), "vad_score"), self._line.now()
        if score >= self._config.voice_threshold:
            self._hear()
        elif self._caller.is_speaking and now_s - self._loud_at_s >= QUIET_S:
            self._caller.stopped(self._speech(), self._loud_at_s)

    def _on_words_so_far(self, said: dict[str, Any]) -> None:
        text = text_of(dict_of(said, "tentative_user_transcription_event"), "user_transcript")
        if text.strip():
            self._hear()
            self._caller.goes_on(self._speech(), text)

    def _on_words(self, said: dict[str, Any]) -> None:
        text = text_of(dict_of(said, "user_transcription_event"), "user_transcript").strip()
        if text in self._typed:
            self._typed.remove(text)
            return
        self._hear()
        self._caller.finished(self._speech(), text)
        self._is_muted = False
        self._end_reply(is_whole=True)

    def _hear(self) -> None:
        """The caller speaks, if that is not known."""
        self._begin_talk()
        self._loud_at_s = self._line.now()
        if not self._caller.is_open:
            self._speeches += 1
        if self._caller.started(self._speech(), self._line.now()):
            self._replies.speech_started()

    def _speech(self) -> str:
        return str(self._speeches)

    # --- replies --------------------------------------------------------------------------------------------

    def _on_sound(self, said: dict[str, Any]) -> None:
        event = dict_of(said, "audio_event")
        number, audio = int(needed_number_of(event, "event_id")), audio_of(event, "audio_base_64")
        self._heard_of = max(self._heard_of, number)
        self._spoke_at_s = self._line.now()
        if number > self._interrupted and not self._is_muted:
            self._replies.sound(self._going_on(), audio)

    def _on_text(self, said: dict[str, Any]) -> None:
        text = text_of(dict_of(said, "agent_response_event"), "agent_response").strip()
        self._spoke_at_s = self._line.now()
        if self._has_parts:  # these words, once more as a whole
            self._has_parts = False
            return
        self._is_muted = False
        if self._reply is not None and self._reply.has_text:
            self._end_reply(is_whole=True)
        self._replies.text(self._going_on(), text)

    def _on_text_part(self, said: dict[str, Any]) -> None:
        part = dict_of(said, "text_response_part")
        if part.get("type") == "start" and self._reply is not None and self._reply.has_text:
            self._end_reply(is_whole=True)
        if text := text_of(part, "text"):
            self._spoke_at_s = self._line.now()
            self._is_muted, self._has_parts = False, True
            self._replies.text(self._going_on(), text)

    def _on_complete(self, _: dict[str, Any]) -> None:
        self._is_muted = False
        self._end_reply(is_whole=True)

    def _on_interruption(self, said: dict[str, Any]) -> None:
        number = int(needed_number_of(dict_of(said, "interruption_event"), "event_id"))
        self._interrupted = max(self._interrupted, number)
        self._has_stopped_itself = True
        self._hear()
        if self._reply is not None:
            self._replies.void(self._reply)
            self._end_reply(is_whole=False)

    def _on_correction(self, said: dict[str, Any]) -> None:
        text = text_of(dict_of(said, "agent_response_correction_event"), "corrected_agent_response").strip()
        if self._numbers:
            self._line.lanes.put(ReplyCorrected(self._name(), text))

    def _going_on(self) -> Reply:
        """The reply that this is of."""
        if self._reply is None:
            self._numbers += 1
            self._has_stopped_itself = False
            self._reply = self._replies.begin(self._name())
        return self._reply

    def _end_reply(self, *, is_whole: bool) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            self._has_parts = False
            self._replies.over(reply, is_whole=is_whole)

    def _name(self) -> str:
        return f"reply-{self._numbers}"

    def _keep_opening(self, kind: str, said: dict[str, Any]) -> None:
        """Bounded as what waits to be taken is."""
        if kind == "agent_response":
            self._opening_text = text_of(dict_of(said, "agent_response_event"), "agent_response").strip()
        if len(self._opening) < 1000:
            self._opening.append(said)

        if self._opening_text and self._first:
            self._say_first()

    def _say_first(self) -> None:
        """What was asked for first: the opening that waits, if it is that; else the opening is never heard."""
        text, opening = self._first, self._opening
        is_it = text == self._expected_opening()
        self._begin_talk()
        if is_it:
            self._is_muted = False
            for said in opening:
                with suppress(BadMessage):
                    self._on[said["type"]](said)
        else:
            self._type(SAY.format(text))

    def _begin_talk(self) -> None:
        """From now on what the agent says is meant to be heard, but for the rest of an opening that was not."""
        self._is_opening = False
        if self._opening:
            self._is_muted, self._spoke_at_s = True, self._line.now()
        self._opening, self._first, self._opening_until_s = [], "", math.inf

    def _type(self, text: str) -> None:
        self._typed.append(text)
        self._send({"type": "user_message", "text": text})

    def _send(self, message: dict[str, Any]) -> None:
        self._line.outbox.append(packed(message))
