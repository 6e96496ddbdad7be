import base64
import json
import struct
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from medvl.address import ServerAddress
from medvl.cli.options import build_settings
from medvl.errors import SettingsError
from medvl.reader import server as server_module
from medvl.settings import DEFAULT_MODEL
from tests.builders import uid
from tests.pipeline.bench import SIDE_PX, Bench, Notes, is_impression, report_bright, timeless, write_body
from tests.reader_fakes import ScriptedReader, count_pictures
from tests.remote.served import DROP, HASTY, IMPATIENT, ScriptedServer, request_of, vllm_error

# Twelve slices in chunks of at most four: 1–3, 3–6, 6–9 and 9–12.
CHUNKS = 4
JANE = {"patient_name": "Doe^Jane", "patient_id": "MRN-4711"}
AS_THE_BENCH = {"chunk": "4", "size_px": SIDE_PX, "slab": "off", "windows": ("mediastinum",), "second_look": "off"}


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    write_body(made.input, **JANE)
    return made


@pytest.fixture
def server():
    made = ScriptedServer(lambda body: report_bright(request_of(body)))
    yield made
    made.kill()


@pytest.fixture
def read(bench, monkeypatch):
    def read_through(asked, patience=HASTY, watcher=None, **changes):
        monkeypatch.setattr(server_module, "Patience", lambda: patience)
        address = changes.pop("server", None) or ServerAddress(asked.url)
        settings = {"server": address, "model": "", "batch": 1, **AS_THE_BENCH, **changes}
        return bench.run(watcher=watcher, **settings)

    return read_through


def chunks_of(server):
    """What was asked about pictures, as the labels that name the slices."""
    requests = [request_of(body) for body in server.bodies]
    return [tuple(part for part in each.parts if isinstance(part, str)) for each in requests if not is_impression(each)]


def unread(bench):
    return {i: fate.not_read_because for i, fate in enumerate(bench.report().series[0].slices, 1) if not fate.read_in}


def png_chunks(url):
    """The names of a PNG's chunks in order (PNG specification, 5.3: length, name, data, checksum)."""
    data, at, names = base64.b64decode(url.partition(",")[2]), 8, []
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        names.append(name.decode())
        at += 12 + length
    return names


def dying(server, after):
    """Make a server die when it is asked once more than `after` times."""

    def reply(body):
        if len(server.bodies) <= after:
            return report_bright(request_of(body))
        threading.Thread(target=server.kill).start()
        return DROP

    server.reply = reply


def test_a_study_read_by_a_server_equals_one_read_here(bench, read, server, tmp_path):
    assert read(server).exit_status == 0
    served = bench.report()
    here = Bench(tmp_path / "here")
    here.run(ScriptedReader(report_bright), paths=(bench.input,), **AS_THE_BENCH)
    local = here.report()
    assert len(chunks_of(server)) == CHUNKS
    unsure = {"confidence": None, "wording_probability": None}  # this server tells no probabilities
    assert served.findings == tuple(replace(finding, **unsure) for finding in local.findings)
    assert (served.impression, served.series) == (local.impression, local.series)
    assert served.provenance.reader.decode == "server"


def test_no_element_of_identity_is_sent(bench, read, server):
    read(server)
    sent = json.dumps(server.headers)
    for body in server.bodies:
        for part in (part for part in body["messages"][0]["content"] if part["type"] == "image_url"):
            assert png_chunks(part["image_url"]["url"]) == ["IHDR", "IDAT", "IEND"]  # pixels and nothing beside them
            part["image_url"] = None
        sent += json.dumps(body)
    study = bench.report().study
    uids = {fate.sop_instance_uid for fate in bench.report().series[0].slices}
    for secret in ("Doe", "Jane", "MRN-4711", "20240131", study.uid, study.key, *uids):
        assert secret not in sent


def test_no_key_is_written_anywhere(bench, read, server):
    read(server, server=ServerAddress(server.url, api_key="sk-hidden"))
    assert server.headers[0]["authorization"] == "Bearer sk-hidden"
    written = [path for path in bench.output.rglob("*") if path.is_file()]
    assert not [path for path in written if b"sk-hidden" in path.read_bytes()]
    assert ("server", server.url) in bench.report().provenance.settings


def test_the_report_warns_that_weights_cannot_be_verified(bench, read, server):
    read(server)
    assert any("cannot verify" in warning for warning in bench.report().warnings)


def test_a_finished_study_is_not_asked_about_again(bench, read, server):
    read(server)
    before, asked = timeless(bench.output), len(server.bodies)
    read(server)
    assert (timeless(bench.output), len(server.bodies)) == (before, asked)


def test_a_limit_on_pictures_is_found_and_kept(bench, read, server):
    def reply(body):
        if count_pictures(request_of(body)) > 2:
            return vllm_error("At most 2 image(s) may be provided in one request.")
        return report_bright(request_of(body))

    server.reply = reply
    assert read(server).exit_status == 0
    assert [count_pictures(request_of(body)) > 2 for body in server.bodies].count(True) == 1  # told once
    assert unread(bench) == {}
    asked = len(server.bodies)
    read(server)  # resumed with other chunks than were planned
    assert len(server.bodies) == asked


def test_a_picture_that_is_too_much_by_itself_is_named_with_the_servers_words(bench, read, server):
    server.reply = lambda body: vllm_error("This model's maximum context length is 16 tokens.")
    assert read(server).exit_status == 4
    assert set(unread(bench)) == set(range(1, 13))
    assert "the server answered 400: This model's maximum context length is 16 tokens." in unread(bench)[1]


def test_garbage_in_a_fifth_of_the_answers_costs_nothing_but_time(bench, read, server):
    def reply(body):
        return "<html>" if len(server.bodies) % 5 == 2 else report_bright(request_of(body))

    server.reply = reply
    assert read(server).exit_status == 0
    assert (unread(bench), len(bench.report().findings)) == ({}, 1)
    assert len(chunks_of(server)) == CHUNKS + 1


def test_a_server_killed_in_mid_study_leaves_exactly_what_it_did_not_read_and_another_reads_that(bench, read, server):
    dying(server, after=2)
    outcome = read(server, replace(IMPATIENT, request_s=10, chunk_s=2))
    assert outcome.exit_status == 4
    assert set(unread(bench)) == {7, 8, 9, 10, 11, 12}
    assert all("the connection to the server failed" in reason for reason in unread(bench).values())
    elsewhere = ScriptedServer(lambda body: report_bright(request_of(body)))
    assert read(elsewhere).exit_status == 0
    elsewhere.kill()
    assert unread(bench) == {}
    assert len(chunks_of(elsewhere)) == 2


def test_a_server_killed_and_started_again_in_mid_study_reads_nothing_twice(bench, read, server):
    dying(server, after=2)
    later = []

    def start_again():
        while not server.ended:
            time.sleep(0.01)
        later.append(ScriptedServer(lambda body: report_bright(request_of(body)), port=server.port))

    threading.Thread(target=start_again).start()
    assert read(server).exit_status == 0
    [second] = later
    second.kill()
    answered = Counter([*chunks_of(server)[:2], *chunks_of(second)])
    assert (unread(bench), len(answered), set(answered.values())) == ({}, CHUNKS, {1})


def test_a_chunk_that_a_server_refuses_alone_is_named_and_asked_again_next_time(bench, read, server):
    server.script = [vllm_error("Invalid image")]
    assert read(server).exit_status == 4
    assert unread(bench) == dict.fromkeys((1, 2), "the server answered 400: Invalid image")
    assert read(server).exit_status == 0


# --- what leaves the machine -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(ServerAddress, "is_here", property(lambda address: False))
    return partial(ServerAddress, allow_remote=True)


def test_before_anything_is_sent_elsewhere_it_is_said_what(read, server, elsewhere):
    notes = Notes()
    read(server, watcher=notes, server=elsewhere(server.url))
    assert notes.lines[0].startswith("The server 127.0.0.1 is sent the pictures of every series that is read")
    assert notes.lines[0].endswith("The connection is not encrypted")


@pytest.mark.parametrize("remote", [True, False])
def test_pictures_that_name_the_patient_go_to_no_other_machine(bench, read, server, monkeypatch, remote):
    write_body(bench.input, series="named", **JANE, extra={"BurnedInAnnotation": "YES"})
    monkeypatch.setattr(ServerAddress, "is_here", property(lambda address: not remote))
    named = uid("study", "named")
    outcome = read(server, server=ServerAddress(server.url, allow_remote=True), series=(named,))
    [series] = [each for each in bench.report().series if each.uid == named]
    [reason] = {fate.not_read_because for fate in series.slices}
    assert len(chunks_of(server)) == (0 if remote else CHUNKS)
    assert ("Burned In Annotation" in reason, outcome.exit_status != 0) == (remote, remote)
    assert any("none was sent" in warning for warning in bench.report().warnings) == remote


# --- flags -------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVL_API_KEY", "from-environment")
    (tmp_path / "key").write_text("from-file\n")
    flags = {"server": "http://localhost:8000"}
    assert build_settings(flags).server.api_key == "from-environment"
    assert build_settings({**flags, "api_key_file": tmp_path / "key"}).server.api_key == "from-file"


def test_without_a_name_a_server_reads_with_its_only_model_and_medvl_with_its_own():
    assert build_settings({"server": "http://localhost:8000"}).model == ""
    assert build_settings({}).model == DEFAULT_MODEL


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"server": "http://10.1.2.3:8000"}, r"is not this machine\..*--allow-remote"),
        ({"allow_remote": True}, "speak of a server"),
        ({"server": "http://localhost", "api_key_file": "missing"}, "cannot be read"),
    ],
)
def test_flags_that_cannot_be_used_are_said(tmp_path, flags, message):
    if "api_key_file" in flags:
        flags = {**flags, "api_key_file": tmp_path / flags["api_key_file"]}
    with pytest.raises(SettingsError, match=message):
        build_settings(flags)
