from tests.cli.conftest import point_at


def make_url(run, env):
    return run("generate", "an otter", "-q", env=env).out.strip()


def test_a_url_is_saved_into_this_folder(run, sandbox, tmp_path):
    env = point_at(sandbox)
    ended = run("download", make_url(run, env), env=env)
    assert ended.code == 0, ended.err
    [path] = ended.lines
    assert (tmp_path / path).read_bytes()[4:8] == b"ftyp"


def test_urls_come_from_stdin(run, sandbox, tmp_path):
    env = point_at(sandbox)
    ended = run("download", "-", "-o", "clip.mp4", stdin=make_url(run, env), env=env)
    assert ended.lines == ["clip.mp4"]


def test_a_second_download_into_a_folder_replaces_nothing(run, sandbox, tmp_path):
    env = point_at(sandbox)
    url = make_url(run, env)
    first = run("download", url, "-o", "clips/", env=env)
    second = run("download", url, "-o", "clips/", env=env)
    assert first.lines != second.lines
    assert len(list((tmp_path / "clips").iterdir())) == 2


def test_what_is_no_video_is_refused_unless_any_bytes_will_do(run, sandbox, tmp_path):
    env = point_at(sandbox)
    page = sandbox.url + "/"
    assert run("download", page, "-o", "page.mp4", env=env).code == 12
    assert not (tmp_path / "page.mp4").exists()
    assert run("download", page, "-o", "page.mp4", "--no-check", env=env).code == 0
    assert (tmp_path / "page.mp4").exists()


def test_an_unknown_task_is_still_nothing_paid_twice(run, task_sandbox):
    ended = run("wait", "cgt-none", "--timeout", "1s", env=point_at(task_sandbox))
    assert ended.code == 9
    assert "cgt-none" in ended.err
    assert task_sandbox.charges() == {}


def test_a_failed_task_has_its_own_code(run, task_sandbox):
    task_sandbox.faults.add("failed_task", path="*/generations")
    env = point_at(task_sandbox)
    task = run("generate", "x", "--no-wait", "-q", env=env).out.strip()
    assert run("wait", task, env=env).code == 10


def test_several_tasks_are_collected_at_once(run, task_sandbox, tmp_path):
    env = point_at(task_sandbox)
    tasks = run("generate", "a", "b", "--no-wait", env=env).lines
    ended = run("wait", *tasks, "-o", "clips/", env=env)
    assert ended.lines == [f"clips/{task}.mp4" for task in tasks]


def test_nothing_to_wait_for_is_a_usage_error(run):
    ended = run("wait", env={"INFRON_API_KEY": "k"})
    assert ended.code == 2
    assert "task id" in ended.err


def test_what_came_is_measured_and_compared_with_what_was_asked_for(run, task_sandbox, tmp_path):
    env = point_at(task_sandbox)
    task_sandbox.faults.add("wrong_seconds=4", path="*/generations")
    task = run("generate", "an otter", "--duration", "8s", "--no-wait", "-q", env=env).out.strip()
    ended = run("wait", task, "-o", "otter.mp4", "--asked", "duration=8s", env=env)
    assert (ended.code, ended.lines) == (0, ["otter.mp4"])
    assert "mismatch: otter.mp4: asked for 8 s, got 4 s." in ended.err
    assert "4 s, 640x360, no sound" in ended.err
    told = run("wait", task, "-o", "otter.mp4", env=env)
    assert "mismatch" not in told.err
    url = run("wait", task, "-q", env=env).out.strip()
    asked = ["--asked", "duration=4s", "--asked", "aspect_ratio=1:1"]
    found = run("download", url, "-o", "again.mp4", *asked, "--json", env=env)
    assert found.code == 0
    [shown] = found.records[0]["files"]
    assert [each["field"] for each in shown["mismatches"]] == ["aspect_ratio"]
    assert shown["media"]["seconds"] == 4.0


def test_what_was_asked_for_must_be_a_field(run):
    ended = run("download", "https://x.example/v.mp4", "--asked", "8s")
    assert ended.code == 2
    assert "name=value" in ended.err
