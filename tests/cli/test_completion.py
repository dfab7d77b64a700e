import shutil
import subprocess

import pytest

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def scripts(run, tmp_path):
    found = {}
    for shell in SHELLS:
        ended = run("completion", shell)
        assert ended.code == 0
        found[shell] = tmp_path / f"completion.{shell}"
        found[shell].write_text(ended.out)
    return found


def complete_in_bash(script, cwd, *words):
    quoted = " ".join(f"'{word}'" for word in words)
    code = (
        f"source '{script}'; COMP_WORDS=({quoted}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); _videorouter;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], check=False, capture_output=True, text=True, cwd=cwd, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed here")
def test_bash_completes_commands_options_values_and_files(scripts, tmp_path):
    script = scripts["bash"]
    (tmp_path / "otter clip.mp4").touch()
    assert complete_in_bash(script, tmp_path, "videorouter", "gen") == ["generate"]
    assert complete_in_bash(script, tmp_path, "videorouter", "generate", "--sandbox-m") == ["--sandbox-mode"]
    assert complete_in_bash(script, tmp_path, "videorouter", "generate", "--sandbox-mode", "t") == ["task"]
    assert complete_in_bash(script, tmp_path, "videorouter", "generate", "--sandbox-mode", "=", "t") == ["task"]
    assert complete_in_bash(script, tmp_path, "videorouter", "generate", "-o", "ot") == ["otter clip.mp4"]
    assert complete_in_bash(script, tmp_path, "videorouter", "completion", "z") == ["zsh"]
    assert "doctor" in complete_in_bash(script, tmp_path, "videorouter", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed here")
def test_bash_knows_the_commands_of_a_batch_from_each_other(scripts, tmp_path):
    script = scripts["bash"]
    (tmp_path / "clips").mkdir()
    words = ["run", "status", "retry", "settle", "gallery", "export", "forget"]
    assert complete_in_bash(script, tmp_path, "videorouter", "batch", "") == words
    assert complete_in_bash(script, tmp_path, "videorouter", "batch", "se") == ["settle"]
    assert complete_in_bash(script, tmp_path, "videorouter", "batch", "run", "--on-unknown", "") == ["report", "resend"]
    assert complete_in_bash(script, tmp_path, "videorouter", "batch", "export", "--format", "") == ["jsonl", "csv"]
    assert complete_in_bash(script, tmp_path, "videorouter", "batch", "status", "cl") == ["clips"]
    assert "--bought" in complete_in_bash(script, tmp_path, "videorouter", "batch", "settle", "--")
    assert "--max-cost" not in complete_in_bash(script, tmp_path, "videorouter", "batch", "settle", "--")


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_can_read_its_script(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    done = subprocess.run([shell, "-n", scripts[shell]], check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed here")
def test_fish_completes_commands_and_values(scripts):
    code = f"source {scripts['fish']}; complete -C 'videorouter gen'; complete -C 'videorouter edit --sandbox-mode t'"
    done = subprocess.run(["fish", "-c", code], check=False, capture_output=True, text=True, timeout=30)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["generate", "task"]
    code = f"source {scripts['fish']}; complete -C 'videorouter batch se'; complete -C 'videorouter batch run --on-unknown '"
    done = subprocess.run(["fish", "-c", code], check=False, capture_output=True, text=True, timeout=30)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["settle", "report", "resend"]


def test_no_hidden_option_is_offered(scripts):
    for script in scripts.values():
        assert "--api-key" not in script.read_text()
