import json
import math
import time
from email.utils import formatdate
from itertools import pairwise

import numpy as np
import pytest

from medvl.address import ServerAddress
from medvl.errors import ModelError, SettingsError, TooLargeError
from medvl.findings.schema import reply_schema
from medvl.reader.identity import Sampling
from medvl.reader.remote.answers import message_in
from medvl.reader.remote.faults import judge_refusal
from medvl.reader.remote.pace import Patience, Window
from medvl.reader.server import open_server
from medvl.records import Reading, Request, Token, Unanswered
from tests.remote.served import (
    DROP,
    HASTY,
    IMPATIENT,
    NO_FINDINGS,
    STALL,
    Answer,
    ScriptedServer,
    completion,
    nested_error,
    request_of,
    vllm_error,
)


@pytest.fixture
def server():
    made = ScriptedServer()
    yield made
    made.kill()


@pytest.fixture
def opened():
    """Open readers that are closed when the test ends."""
    readers = []

    def open_reader(server, model="", patience=HASTY, **how):
        readers.append(open_server(ServerAddress(server.url, **how), model, patience=patience))
        return readers[-1]

    yield open_reader
    for reader in readers:
        reader.close()


def chunk(pictures=2, level=0):
    """A request of small pictures that differ, each with its label."""
    shown = [np.full((32, 32), 10 * i + level, np.uint8) for i in range(pictures)]
    labels = [f"SLICE {i + 1}\n" for i in range(pictures)]
    pairs = (part for pair in zip(shown, labels, strict=True) for part in pair)
    return Request(("Look.\n", *pairs, "Find."), reply_schema(max(1, pictures)), 64)


def read(reader, *requests, rows=4):
    return [answer for _, answer in sorted(reader.read(requests, rows))]


# --- what is sent ------------------------------------------------------------------------------------------------


def test_text_and_pictures_go_in_their_order_and_pictures_without_loss(server, opened):
    colour = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    read(opened(server), Request(("a", "b", colour, "c", "d"), None, 50))
    [body] = server.bodies
    back = request_of(body)
    assert back.parts[0] == "ab"  # neighbouring texts are one
    assert np.array_equal(back.parts[1], colour)
    assert back.parts[2:] == ("cd",)
    assert (body["max_tokens"], body["temperature"], len(body["messages"])) == (50, 0.0, 1)


def test_the_schema_goes_without_the_options_of_our_own_grammar(server, opened):
    read(opened(server), chunk())
    told = server.bodies[0]["response_format"]
    assert (told["type"], told["json_schema"]["strict"]) == ("json_schema", True)
    assert told["json_schema"]["schema"] == {k: v for k, v in json.loads(reply_schema(2)).items() if k != "x-guidance"}


def test_nothing_of_this_machine_or_its_environment_is_sent(server, opened, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing listens there
    read(opened(server), chunk())
    needed = {"host", "content-length", "content-type", "accept", "accept-encoding", "connection"}
    assert set(server.headers[0]) <= needed
    assert not any("secret" in value for value in server.headers[0].values())


def test_the_key_goes_to_the_server_and_is_shown_nowhere(server, opened):
    address = ServerAddress(server.url, api_key="sk-hidden")
    reader = opened(server, api_key="sk-hidden")
    read(reader, chunk())
    assert server.headers[0]["authorization"] == "Bearer sk-hidden"
    assert "sk-hidden" not in f"{address} {address!r} {reader.identity}"


# --- what is answered --------------------------------------------------------------------------------------------


def test_probabilities_come_from_the_log_probabilities_of_the_server(server, opened):
    # OpenAI API reference, chat completion object: choices[].logprobs.content[] with token, logprob and bytes. The two
    # bytes of é come in two tokens; −9999 is how vLLM and llama.cpp write "never".
    content = [
        {"token": "{", "logprob": math.log(0.5), "bytes": [0x7B]},
        {"token": "�", "logprob": 0.0, "bytes": [0xC3]},
        {"token": "�", "logprob": -9999.0, "bytes": [0xA9]},
        {"token": "}", "logprob": 1e-9, "bytes": None},
    ]
    server.script = [Answer(200, completion("{é}", "length", {"content": content}))]
    [reading] = read(opened(server), chunk())
    assert [token.text for token in reading.tokens] == ["{", "", "é", "}"]
    assert reading.tokens[0] == Token("{", pytest.approx(0.5))
    assert 0 < reading.tokens[2].probability < 1e-300
    assert (reading.tokens[3].probability, reading.complete, reading.prompt_token_count) == (1.0, False, 100)


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": [{"token": "a"}]}, "none"])
def test_without_usable_probabilities_a_reading_has_no_tokens(server, opened, logprobs):
    server.script = [Answer(200, completion(NO_FINDINGS, logprobs=logprobs))]
    assert read(opened(server), chunk())[0].tokens == ()


def test_a_server_that_refuses_a_schema_is_asked_without_one_and_that_is_another_reader(server, opened):
    held = opened(server).identity
    # llama.cpp: tracker, issue 11847.
    refusal = nested_error('Either "json_schema" or "grammar" can be specified, but not both')
    server.greeting = [refusal, refusal]
    server.script = ["Here you are:\n```json\n" + NO_FINDINGS + "\n```"]
    reader = opened(server)
    [reading] = read(reader, chunk())
    assert "response_format" not in server.bodies[0]
    assert server.bodies[0]["logprobs"] is True
    assert reading.text.endswith("```")  # what can be saved of it is not decided here
    assert (held.generation == reader.identity.generation, held.fingerprint == reader.identity.fingerprint) == (
        False,
        True,
    )


def test_a_server_without_probabilities_is_not_asked_for_them(server, opened):
    server.greeting = [nested_error("logprobs is not supported", 422)]
    read(opened(server), chunk())
    assert "logprobs" not in server.bodies[0]
    assert "response_format" in server.bodies[0]


# --- which server ------------------------------------------------------------------------------------------------


def test_a_fingerprint_tells_models_apart_and_knows_no_url(opened):
    # llama.cpp's server README, GET /v1/models: meta with n_params and others; vLLM: root, and created as the time now.
    facts = {"id": "m", "root": "/weights/a", "created": 1, "meta": {"n_params": 8, "n_ctx_train": 4}}
    others = [{**facts, "created": 2}, {**facts, "root": "/weights/b"}, {**facts, "meta": {"n_params": 9}}]
    servers = [ScriptedServer(models=[each], system_fingerprint="b1") for each in (facts, *others)]
    prints = [opened(each).identity.fingerprint for each in servers]
    for each in servers:
        each.kill()
    assert [each == prints[0] for each in prints] == [True, True, False, False]
    assert len(prints[0]) == 64


def test_the_identity_says_that_weights_are_beyond_reach(server, opened):
    identity = opened(server).identity
    assert (identity.model, identity.precision, identity.device) == ("Qwen/Qwen3-VL-8B-Instruct", "as served", "server")
    assert "cannot verify" in identity.warning


@pytest.mark.parametrize(
    ("models", "wanted", "message"),
    [
        (["a", "b"], "", "has 2 models. One of: a, b. Choose it with --model"),
        (["a"], "c", "has no model c. One of: a"),
        ([], "", "has 0 models. One of: none"),
    ],
)
def test_a_model_that_is_not_there_is_said_with_those_that_are(opened, models, wanted, message):
    server = ScriptedServer(models=[{"id": each} for each in models])
    with pytest.raises(ModelError, match=message):
        opened(server, wanted)
    server.kill()


def test_a_server_that_is_still_loading_is_waited_for(server, opened):
    # llama.cpp's server README, GET /health: the answer while the model is loading.
    server.greeting = [nested_error("Loading model", 503, type="unavailable_error")] * 3
    assert isinstance(read(opened(server), chunk())[0], Reading)


def test_where_nobody_listens_that_is_said_at_once(opened):
    server = ScriptedServer()
    server.kill()
    with pytest.raises(ModelError, match=r"cannot read: the connection to the server failed"):
        opened(server)


def test_a_server_that_sees_no_pictures_is_refused_before_the_study(server, opened):
    # vLLM: the refusal of a model without a vision tower.
    server.greeting = [vllm_error("Qwen/Qwen3-8B is not a multimodal model")] * 4
    with pytest.raises(ModelError, match="is not a multimodal model"):
        opened(server)


def test_a_wrong_key_ends_the_run_and_not_just_a_chunk(server, opened):
    reader = opened(server)
    server.script = [Answer(401, '{"error": "Unauthorized"}')]  # vLLM, --api-key
    with pytest.raises(ModelError, match="401: Unauthorized"):
        read(reader, chunk(), rows=1)


def test_pictures_do_not_follow_a_redirect(server, opened):
    elsewhere = ScriptedServer()
    reader = opened(server)
    server.script = [Answer(307, "", {"Location": elsewhere.url + "/chat/completions"})]
    with pytest.raises(ModelError, match=r"sends its clients on to http://127\.0\.0\.1"):
        read(reader, chunk())
    assert elsewhere.bodies == []
    elsewhere.kill()


# --- limits ------------------------------------------------------------------------------------------------------

LIMITS = {
    # vLLM, --limit-mm-per-prompt; tracker, issues 13513 and 17092.
    "vLLM, pictures": (vllm_error("At most 2 image(s) may be provided in one request."), 3),
    "vLLM, pictures, later": (nested_error("At most 3 image(s) may be provided in one prompt. None"), 4),
    # vLLM, --max-model-len; tracker, issues 20409, 12165 and 4667.
    "vLLM, context": (
        vllm_error(
            "This model's maximum context length is 16384 tokens. However, you requested 19591 tokens (9591 in the "
            "messages, 10000 in the completion). Please reduce the length of the messages or completion."
        ),
        5,
    ),
    "vLLM, prompt": (
        vllm_error("The decoder prompt (length 15983) is longer than the maximum model length of 8192."),
        5,
    ),
    "vLLM, older": (
        vllm_error("The prompt (total length 25938) is too long to fit into the model (context length 4096)."),
        5,
    ),
    "vLLM, no room": (vllm_error("max_tokens must be at least 1, got -186."), 5),
    # SGLang, --context-length; QwenLM/Qwen3, issue 1321.
    "SGLang, context": (
        vllm_error("The input (61709 tokens) is longer than the model's context length (40960 tokens)."),
        5,
    ),
    # llama.cpp, pull request 15780; the status was 500 at first.
    "llama.cpp, context": (
        nested_error(
            "the request exceeds the available context size. try increasing the context size or enable context shift",
            type="exceed_context_size_error",
            n_prompt_tokens=1407,
            n_ctx=256,
        ),
        5,
    ),
    "llama.cpp, older": (nested_error("too much", 500, type="exceed_context_size_error"), 5),
    # RFC 9110, 15.5.14; nginx's page for client_max_body_size.
    "gateway, body": (Answer(413, "<html><head><title>413 Request Entity Too Large</title></head></html>"), 5),
}


@pytest.mark.parametrize("name", LIMITS)
def test_documented_limits_are_told_as_the_fewest_pictures_that_are_too_many(server, opened, name):
    answer, too_many = LIMITS[name]
    reader = opened(server)
    server.script = [answer]
    with pytest.raises(TooLargeError, match="the server answered") as raised:
        read(reader, chunk(5))
    assert raised.value.too_many == too_many


def test_a_limit_is_remembered_for_the_run(server, opened):
    reader = opened(server)
    server.script = [LIMITS["vLLM, pictures"][0]]
    for pictures in (5, 3):
        with pytest.raises(TooLargeError) as raised:
            read(reader, chunk(pictures))
        assert raised.value.too_many == 3
    assert len(server.bodies) == 1  # three pictures were not even sent
    assert isinstance(read(reader, chunk(2))[0], Reading)


def test_text_that_is_too_long_says_nothing_about_pictures(server, opened):
    reader = opened(server)
    server.script = [LIMITS["vLLM, context"][0]]
    with pytest.raises(TooLargeError) as raised:
        read(reader, chunk(0))
    assert raised.value.too_many == 0
    assert isinstance(read(reader, chunk(5))[0], Reading)


def test_what_is_under_way_is_read_before_a_limit_is_told(server, opened):
    def reply(body):
        if len(request_of(body).parts) > 5:  # more than two pictures
            return LIMITS["vLLM, pictures"][0]
        time.sleep(0.05)
        return NO_FINDINGS

    server.reply = reply
    answered = []
    with pytest.raises(TooLargeError, match="At most 2"):
        answered.extend(number for number, _ in opened(server).read([chunk(2), chunk(4), chunk(1), chunk(2)], 4))
    assert 0 in answered
    assert 1 not in answered
    assert len(answered) == len(server.bodies) - 1  # nothing that was sent is lost


# --- trouble that passes -----------------------------------------------------------------------------------------

TROUBLES = {
    "a dropped connection": DROP,
    "half a body": Answer(200, completion(NO_FINDINGS), sent=0.5),
    "half a head": Answer(200, completion(NO_FINDINGS), sent=0.0),
    "a page instead of JSON": Answer(200, "<html>nginx</html>"),
    "no choices": Answer(200, '{"choices": []}'),
    "a list": Answer(200, "[]"),
    "no text": Answer(200, completion("")),
    "prose": "I am sorry, I cannot help with that.",
    "a failure inside": Answer(500, '{"object":"error","message":"EngineCore died","code":500}'),
    "a gateway": Answer(502, "Bad Gateway"),
    "too many, with seconds": Answer(429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.05"}),
    # Ollama FAQ, "How does Ollama handle concurrent requests": 503 when OLLAMA_MAX_QUEUE is full.
    "a full queue": nested_error("server busy, please try again.  maximum pending requests exceeded", 503),
    # SGLang, --max-queued-requests (pull request 7565).
    "a full queue, SGLang": vllm_error("The request queue is full.", 503),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_that_passes_costs_one_more_try(server, opened, name):
    reader = opened(server)
    server.script = [TROUBLES[name]]
    [reading] = read(reader, chunk())
    assert (reading.text, len(server.bodies)) == (NO_FINDINGS, 2)


def test_as_long_as_the_server_asks_to_wait_it_is_left_alone(server, opened):
    asked = []
    server.reply = lambda body: (
        asked.append(time.monotonic())
        or (Answer(429, "{}", {"Retry-After": "0.2"}) if len(asked) == 1 else NO_FINDINGS)
    )
    read(opened(server), chunk())
    [(first, second)] = pairwise(asked)
    assert second - first >= 0.2


def test_a_server_that_wants_to_be_left_alone_for_too_long_is(server, opened):
    server.reply = lambda body: Answer(429, '{"error": {"message": "quota"}}', {"Retry-After": "3600"})
    [answer] = read(opened(server), chunk())
    assert answer == Unanswered("the server gave no answer within 20 s: the server answered 429: quota")
    assert len(server.bodies) == 1


def test_what_will_never_be_answered_is_left_with_the_reason_and_the_rest_is_read(server, opened):
    reader = opened(server)
    server.script = [nested_error("Image decoding failed")]
    answers = read(reader, chunk(), chunk(), rows=1)
    assert answers[0] == Unanswered("the server answered 400: Image decoding failed")
    assert isinstance(answers[1], Reading)


def test_what_is_garbled_every_time_is_left_after_as_many_tries_as_were_granted(server, opened):
    server.reply = lambda body: Answer(200, "no JSON")
    [answer] = read(opened(server), chunk())
    assert answer == Unanswered("the server gave an answer that is not JSON")
    assert len(server.bodies) == HASTY.broken_tries


def test_a_server_that_stalls_is_given_up_at_the_deadline_and_the_rest_not_asked(server, opened):
    server.reply = lambda body: STALL
    began = time.monotonic()
    answers = read(opened(server, patience=IMPATIENT), *(chunk(level=i) for i in range(20)), rows=2)
    assert {type(answer) for answer in answers} == {Unanswered}
    assert time.monotonic() - began < 10 * IMPATIENT.chunk_s  # which is what ten rounds of two would take
    assert "the server fell silent: the server did not answer in time" in {answer.reason for answer in answers}


def test_a_server_that_comes_back_is_asked_again(server, opened):
    reader = opened(server, patience=IMPATIENT)
    server.reply = lambda body: STALL
    read(reader, chunk(), chunk(), rows=1)
    server.reply = lambda body: NO_FINDINGS
    assert isinstance(read(reader, chunk())[0], Reading)


def test_no_more_is_under_way_than_was_allowed(server, opened):
    server.reply = lambda body: time.sleep(0.02) or NO_FINDINGS
    reader = opened(server)
    read(reader, *(chunk() for _ in range(12)), rows=3)
    assert server.most_at_once == 3


def test_whoever_stops_listening_leaves_nothing_under_way(server, opened):
    server.reply = lambda body: STALL
    reader = opened(server)
    server.script = [NO_FINDINGS]
    answers = reader.read((chunk() for _ in range(8)), 4)
    next(answers)
    answers.close()
    reader.close()  # waits for nothing
    assert len(server.bodies) <= 5


# --- how many at once --------------------------------------------------------------------------------------------


def test_the_window_grows_by_one_a_round_and_halves_once_for_one_round():
    window = Window()
    window.limit(100)
    assert window.size == 4
    for _ in range(5):  # 4.25, 4.485, 4.708, 4.921, 5.124
        window.widen()
    assert window.size == 5
    window.halve(asked_at=1.0, now=2.0)
    assert window.size == 2  # 2.562
    window.halve(asked_at=1.5, now=2.1)  # of the same round
    assert window.size == 2
    window.halve(asked_at=2.0, now=3.0)
    window.halve(asked_at=3.0, now=4.0)
    assert window.size == 1  # never less


def test_the_window_keeps_within_what_is_allowed_and_what_it_has_learnt():
    window = Window()
    window.limit(1)
    window.widen()
    assert window.size == 1
    window.limit(16)
    assert window.size == 4


def test_pauses_double_up_to_the_longest_and_vary_by_half():
    patience = Patience(first_pause_s=1, longest_pause_s=10)
    pauses = [[patience.pause_s(failures) for _ in range(50)] for failures in (1, 2, 3, 50)]
    for drawn, full in zip(pauses, (1, 2, 4, 10), strict=True):
        assert full / 2 <= min(drawn) < max(drawn) <= full


# --- words of servers --------------------------------------------------------------------------------------------


def test_retry_after_may_be_a_date():
    fault = judge_refusal(503, {"retry-after": formatdate(time.time() + 30, usegmt=True)}, "")
    assert (fault.kind, 28 < fault.wait_s <= 30) == ("busy", True)


@pytest.mark.parametrize("told", ["soon", "-5", "nan", ""])
def test_a_retry_after_that_is_none_asks_for_no_wait(told):
    assert judge_refusal(429, {"retry-after": told}, "").wait_s == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "a"}}', "a"),
        ('{"object": "error", "message": "a"}', "a"),
        ('{"error": "a"}', "a"),
        ('{"detail": "a"}', "a"),
        ('{"detail": [{"msg": "a"}]}', '[{"msg": "a"}]'),
        ("a", "a"),
    ],
)
def test_the_sentence_in_a_refusal_is_found_wherever_it_stands(body, message):
    assert message_in(body) == message


# --- where it may be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://127.0.0.2/v1", "https://[::1]:443/v1/"])
def test_a_server_on_this_machine_needs_no_leave(url):
    assert ServerAddress(url).is_here


@pytest.mark.parametrize(
    "url", ["http://10.0.0.5:8000", "https://localhost.example.org", "http://0.0.0.0:8000", "http://127.0.0.1.nip.io"]
)
def test_a_server_elsewhere_needs_leave_and_says_what_it_would_be_sent(url):
    with pytest.raises(SettingsError, match=r"is not this machine\. It would be sent the pictures .* --allow-remote"):
        ServerAddress(url)
    assert not ServerAddress(url, allow_remote=True).is_here


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "http://", "http://localhost:many", "http://[::1"]
)
def test_what_is_no_url_is_said_so(url):
    with pytest.raises(SettingsError, match="is no URL of a server"):
        ServerAddress(url)


def test_a_url_may_carry_no_password():
    with pytest.raises(SettingsError, match="carries more than a place") as raised:
        ServerAddress("http://me:hidden@localhost:8000")
    assert "hidden" not in str(raised.value)


def test_a_key_of_several_words_is_refused_without_being_shown():
    with pytest.raises(SettingsError, match="more than one word") as raised:
        ServerAddress("http://localhost", api_key="two words")
    assert "two" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://localhost/gateway/llm", "https://localhost/gateway/llm"),
    ],
)
def test_the_protocols_paths_are_appended_to_the_url(url, base):
    assert ServerAddress(url).base_url == base


def test_sampling_tells_the_server_all_that_the_protocol_knows(server):
    reader = open_server(ServerAddress(server.url), sampling=Sampling(0.7, seed=3), patience=HASTY)
    read(reader, chunk())
    reader.close()
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.8, 3)
    assert reader.identity.generation.startswith("sampled: temperature 0.7, top-p 0.8, seed 3")
