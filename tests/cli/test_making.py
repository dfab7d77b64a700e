import json
import signal
import stat
import sys

import pytest

from tests.cli.conftest import finish, point_at
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and file modes are POSIX")


def is_mp4(path):
    return path.read_bytes()[4:8] == b"ftyp"


def test_a_sandbox_for_one_command_needs_no_key(run, tmp_path):
    ended = run("generate", "A cute baby sea otter", "--sandbox", "-o", "otter.mp4")
    assert ended.code == 0, ended.err
    assert ended.out == "otter.mp4\n"
    assert is_mp4(tmp_path / "otter.mp4")


def test_the_sandbox_never_sees_the_real_key(run, tmp_path):
    ended = run("generate", "x", "--sandbox", "-v", "--json", env={"INFRON_API_KEY": "the-real-key"})
    assert ended.code == 0
    assert "the-real-key" not in ended.out + ended.err


def test_without_a_place_the_url_is_the_data(run, sandbox):
    ended = run("generate", "A cute baby sea otter", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert ended.out.startswith("http://127.0.0.1:")
    assert sandbox.charges() == {"A cute baby sea otter": 1}


def test_a_prompt_comes_from_stdin(run, sandbox):
    ended = run("generate", "-", stdin="two lines\nof words\n", env=point_at(sandbox))
    assert ended.code == 0
    assert sandbox.charges() == {"two lines\nof words": 1}


def test_each_line_of_a_file_is_a_prompt_when_asked(run, sandbox, tmp_path):
    (tmp_path / "prompts.txt").write_text("an otter\n\na heron\n")
    ended = run("generate", "--prompt-file", "prompts.txt", "--lines", "-o", "clips/", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert sandbox.charges() == {"an otter": 1, "a heron": 1}
    assert ended.lines == ["clips/an-otter.mp4", "clips/a-heron.mp4"]
    assert all(is_mp4(tmp_path / line) for line in ended.lines)


def test_prompts_may_stand_on_both_sides_of_an_option(run, sandbox):
    ended = run("generate", "one", "--json", "two", env=point_at(sandbox))
    assert [record["prompt"] for record in ended.records] == ["one", "two"]


def test_several_prompts_get_numbered_files(run, sandbox, tmp_path):
    ended = run("generate", "one", "two", "-o", "clip.mp4", env=point_at(sandbox))
    assert ended.lines == ["clip-1.mp4", "clip-2.mp4"]
    assert is_mp4(tmp_path / "clip-1.mp4")


def test_a_video_goes_to_stdout(run, sandbox):
    ended = run("generate", "x", "-o", "-", "-q", env=point_at(sandbox))
    assert ended.code == 0
    assert "ftyp" in ended.out[:16]
    assert ended.err == ""


def test_fields_pass_through_as_json_or_text(run, sandbox):
    args = ("-F", "timeout=7", "-F", "watermark=false", "-F", "ratio=16:9", "--duration", '"8"', "--seed", "5")
    assert run("generate", "x", *args, env=point_at(sandbox)).code == 0
    [body] = [json.loads(record.body) for record in sandbox.requests if record.method == "POST"]
    assert {name: body[name] for name in ("timeout", "watermark", "ratio", "duration", "seed")} == {
        "timeout": 7,
        "watermark": False,
        "ratio": "16:9",
        "duration": "8",
        "seed": 5,
    }


def test_json_is_one_object_a_prompt_with_everything(run, task_sandbox):
    [record] = run("generate", "x", "-o", "x.mp4", "--json", env=point_at(task_sandbox)).records
    assert record["ok"] is True
    assert record["task_id"]
    assert record["videos"][0]["video_id"]
    assert record["files"][0]["path"] == "x.mp4"
    assert record["cost"] > 0


def test_quiet_says_nothing_but_data(run, sandbox):
    ended = run("generate", "x", "-q", env=point_at(sandbox))
    assert ended.err == ""
    assert len(ended.lines) == 1


def test_nothing_is_drawn_when_stderr_is_no_terminal(run, sandbox):
    ended = run("generate", "x", env=point_at(sandbox))
    assert "\x1b" not in ended.err + ended.out


def test_an_edit_of_the_quickstart_works_as_printed(run, tmp_path):
    video = "video_68fc872dba248190875ba0c177c7b0cf0974c02d85a9c020"
    ended = run("edit", video, "--sandbox", "-o", "snow.mp4", "Make it snow")
    assert ended.code == 0, ended.err
    assert is_mp4(tmp_path / "snow.mp4")


def test_an_unknown_video_id_is_refused_with_words(run):
    ended = run("edit", "video_none", "Make it snow", "--sandbox")
    assert ended.code == 3
    assert "video_none" in ended.err
    assert "next:" in ended.err


def test_no_wait_prints_the_task_id_that_wait_collects(run, task_sandbox, tmp_path):
    env = point_at(task_sandbox)
    submitted = run("generate", "x", "--no-wait", env=env)
    assert submitted.out.startswith("cgt-")
    collected = run("wait", submitted.out.strip(), "-o", "x.mp4", env=env)
    assert collected.code == 0
    assert is_mp4(tmp_path / "x.mp4")
    assert task_sandbox.charges() == {"x": 1}


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("status=401", 4, "--bearer"),
        ("status=402", 5, "videorouter balance"),
        ("status=422", 3, "next:"),
        ("moderation=422", 6, "prompt"),
        ("status=500", 8, "usage page"),
        ("close; at=answer; byte=20", 8, "usage page"),
        ("bad_json", 8, "usage page"),
    ],
)
def test_each_outcome_has_its_exit_code_and_a_next_step(run, sandbox, fault, code, words):
    sandbox.faults.add(fault, path="*/generations")
    ended = run("generate", "x", "--json", env=point_at(sandbox))
    assert ended.code == code, ended.err
    assert words in ended.err
    [record] = ended.records
    assert record["ok"] is False
    assert record["error"]["exit"] == code
    assert record["error"]["in_doubt"] is (code == 8)
    assert record["error"]["next"]
    assert "key-for-tests" not in ended.out + ended.err


def test_nothing_listening_means_nothing_was_bought(run):
    ended = run(
        "generate", "x", "--base-url", "http://127.0.0.1:9/v1", "--max-retries", "0", env={"INFRON_API_KEY": "k"}
    )
    assert ended.code == 11
    assert "videorouter doctor" in ended.err


def test_one_failure_does_not_lose_the_others(run, sandbox, tmp_path):
    sandbox.faults.add("status=422", prompt="bad")
    ended = run("generate", "good", "bad", "-o", "clips/", env=point_at(sandbox))
    assert ended.code == 3
    assert ended.lines == ["clips/good.mp4"]
    assert "bad" in ended.err


def test_a_video_that_cannot_be_saved_is_told_with_the_command_that_saves_it(run, sandbox, tmp_path):
    sandbox.faults.add("expired", path="/video/*")
    ended = run("generate", "x", "-o", "my clip.mp4", env=point_at(sandbox))
    assert ended.code == 12
    assert ended.out.startswith("http://127.0.0.1:")
    assert f"videorouter download {ended.out.strip()} -o 'my clip.mp4'" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_the_deadline_of_a_task_prints_the_command_that_collects_it(run):
    with Sandbox(mode="task", latency=3600.0).in_thread() as sandbox:
        ended = run("generate", "x", "-o", "x.mp4", "--timeout", "1s", env=point_at(sandbox))
    assert ended.code == 9
    assert "next: videorouter wait cgt-" in ended.err
    assert "-o x.mp4" in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_task_prints_the_command_that_collects_it(start, number, code):
    with Sandbox(mode="task", latency=3600.0).in_thread() as sandbox:
        process = start("generate", "an otter", "a heron", "-o", "x.mp4", env=point_at(sandbox))
        for line in process.stderr:
            if b"a heron: accepted" in line:
                break
        sandbox.wait_until(lambda box: sum(box_request.method == "GET" for box_request in box.requests) >= 2)
        ended = finish(process, number)
        tasks = [record.task_id for record in sandbox.requests if record.method == "POST"]
    assert ended.code == code
    assert len(tasks) == 2
    for task in tasks:
        assert f"videorouter wait {task} -o x-" in ended.err


def test_an_interrupted_held_request_is_said_to_be_in_doubt(start):
    with Sandbox(mode="held", latency=3600.0).in_thread() as sandbox:
        process = start("generate", "an otter", env=point_at(sandbox))
        sandbox.wait_until(lambda box: box.held == 1)
        ended = finish(process, signal.SIGINT)
    assert ended.code == 130
    assert "may have been accepted and billed" in ended.err


def test_an_interrupted_sandbox_says_that_its_task_ends_with_it(start):
    process = start("generate", "x", "--sandbox", "--sandbox-mode", "task", "--sandbox-profile", "realistic")
    for line in process.stderr:
        if b"accepted" in line:
            break
    ended = finish(process, signal.SIGINT)
    assert ended.code == 130
    assert "--sandbox-state" in ended.err
    assert "next: videorouter wait" not in ended.err


def test_a_kept_sandbox_lets_a_later_command_collect(run, tmp_path):
    options = ("--sandbox-state", "state.db", "--sandbox-mode", "task")
    submitted = run("generate", "x", "--no-wait", *options)
    assert submitted.code == 0, submitted.err
    collected = run("wait", submitted.out.strip(), *options, "-o", "x.mp4")
    assert collected.code == 0, collected.err
    assert is_mp4(tmp_path / "x.mp4")


def test_a_place_that_cannot_be_written_is_found_out_before_paying(run, sandbox, tmp_path):
    ended = run("generate", "x", "-o", "missing/x.mp4", env=point_at(sandbox))
    assert ended.code == 2
    assert "missing" in ended.err
    assert sandbox.charges() == {}


def test_an_image_file_is_uploaded(run, sandbox, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 36), "red").save(tmp_path / "cat.png")
    ended = run("generate", "x", "--image", "cat.png", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    [body] = [json.loads(record.body) for record in sandbox.requests if record.path.endswith("/generations")]
    assert "://" in body["image_url"]


def test_bearer_is_sent_when_asked(run):
    with Sandbox(auth="bearer").in_thread() as sandbox:
        assert run("generate", "x", env=point_at(sandbox)).code == 4
        assert run("generate", "x", "--bearer", env=point_at(sandbox)).code == 0


def test_the_key_comes_from_a_file_or_a_command(run, tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text("key-of-the-file\n")
    key_file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with Sandbox(api_key="key-of-the-file").in_thread() as sandbox:
        env = {"INFRON_VIDEO_BASE_URL": sandbox.base_url, "INFRON_API_KEY": "another"}
        assert run("generate", "x", env=env).code == 4
        assert run("generate", "x", "--key-file", "key", env=env).code == 0
        assert run("generate", "x", "--key-command", "cat key", env=env).code == 0
        ended = run("generate", "x", "--key-command", "false", env=env)
    assert ended.code == 2
    assert "--key-command" in ended.err


def test_a_reader_that_goes_away_loses_nothing_that_is_paid(start, sandbox):
    process = start("generate", "an otter", "a heron", env=point_at(sandbox))
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(30) == 141
    assert err.count("videorouter download http://127.0.0.1:") == 2
    assert "Traceback" not in err
    process.stdout = None


def test_a_reader_that_goes_away_in_the_middle_of_a_video_is_no_traceback(start, sandbox):
    process = start("generate", "an otter", "-o", "-", env=point_at(sandbox))
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(30) == 141
    assert "videorouter download http://127.0.0.1:" in err
    assert "Traceback" not in err
    process.stdout = None


def test_a_video_that_is_not_what_was_asked_for_is_told_and_is_no_failure(run, sandbox):
    sandbox.faults.add("wrong_ratio=1:1", path="*/generations")
    ended = run("generate", "a", "b", "--aspect-ratio", "16:9", "-o", "clips/", "-q", env=point_at(sandbox))
    assert ended.code == 0
    assert ended.err.count("mismatch: clips/") == 2
    assert "asked for 16:9, got 360x360." in ended.err
