#!/usr/bin/env python3
"""The godwit command where no pool is needed: help, refusals, specs, completion, pool init."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

GODWIT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/release/bin/godwit").resolve()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Cli(unittest.TestCase):
    def setUp(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="godwit-cli-"))

    def tearDown(self):
        shutil.rmtree(self.home)

    def run_cli(self, *words, stdin="", **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("GODWIT_")}
        return subprocess.run([GODWIT, *map(str, words)], input=stdin, capture_output=True, text=True,
                              timeout=30, cwd=self.home,
                              env={**clean, "HOME": str(self.home), "LC_ALL": "C.UTF-8", **environment})

    def commands(self):
        page = self.run_cli("--help").stdout
        rows = page.split("Commands:\n")[1].split("\n\n")[0].splitlines()
        return [re.match(r"  ([a-z]+(?: [a-z]+){0,2})\b", row).group(1) for row in rows]

    def help_of(self, command):
        words = command.split()
        done = self.run_cli(*words, "--help")
        while done.returncode != 0 and len(words) > 1:  # a word of the summary was read as one of the command
            words.pop()
            done = self.run_cli(*words, "--help")
        return words, done

    def test_help_of_every_command_has_two_examples_of_it(self):
        commands = [c for c in self.commands()]
        self.assertGreater(len(commands), 25)
        for command in commands:
            words, done = self.help_of(command)
            self.assertEqual(done.returncode, 0, command)
            examples = done.stdout.split("Examples:\n")[1].split("\n\n")[0].splitlines()
            lines = [e for e in examples if not e.startswith("  #")]
            self.assertEqual(len(lines), 2, command)
            for line in lines:
                self.assertIn("godwit " + " ".join(words), line)

    def test_examples_are_understood_as_pasted(self):
        for command in self.commands():
            _, done = self.help_of(command)
            for line in done.stdout.split("Examples:\n")[1].split("\n\n")[0].splitlines():
                if line.startswith("  #") or "demo" in line or "-w" in line or "doctor" in line:
                    continue
                script = line.strip().replace("~/godwit", f"{self.home}/pool").replace(
                    "> ~/.config/fish/completions/godwit.fish", "")
                done = subprocess.run(
                    ["bash", "-c", script], capture_output=True, text=True, timeout=30, cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PATH": f"{GODWIT.parent}:{os.environ['PATH']}",
                         "GODWIT_DIR": str(self.home / "nothing"), "TOKEN": "gw1.x",
                         "HOME": str(self.home)})
                self.assertNotIn("GW-1001", done.stderr if "pool join" not in line
                                 and "web-01.yaml" not in line else "", line)

    def test_unknown_words_get_the_nearest_match_and_exit_2(self):
        for words, near in ((["migarte", "x"], "godwit migrate"), (["vm", "lss"], "godwit vm ls"),
                            (["jbo", "ls"], "godwit job"), (["evacuate"], "godwit --help"),
                            (["migrate", "x", "--bandwith", "1GiB/s"], "--bandwidth")):
            done = self.run_cli(*words)
            self.assertEqual(done.returncode, 2, words)
            self.assertIn(near, done.stderr)
            self.assertEqual(done.stdout, "")

    def test_words_of_later_versions_are_not_there(self):
        for words in (["vm", "snapshot", "x"], ["dr", "drill", "x"], ["image", "build", "x"], ["top"]):
            self.assertEqual(self.run_cli(*words).returncode, 2, words)

    def test_pool_init_makes_its_files_once(self):
        state = self.home / "pool"
        done = self.run_cli("pool", "init", "--dir", state, "--listen", "127.0.0.1:7499")
        self.assertEqual(done.returncode, 0, done.stderr)
        for key in ("coordinator/ca.key", "coordinator/coordinator.key", "operator/operator.key"):
            self.assertEqual((state / key).stat().st_mode & 0o777, 0o600, key)
        config = json.loads((state / "operator/operator.json").read_text())
        self.assertEqual(config["address"], "127.0.0.1:7499")
        before = (state / "coordinator/ca.crt").read_text()
        again = self.run_cli("pool", "init", "--dir", state)
        self.assertEqual(again.returncode, 5, again.stderr)
        self.assertIn("nothing was changed", again.stderr)
        self.assertEqual((state / "coordinator/ca.crt").read_text(), before)

    def test_pool_init_refuses_bad_addresses_and_names(self):
        for words in (["--listen", "7411"], ["--listen", "a:0"], ["--address", "x:y"],
                      ["--name", "two words"], ["--listen", "::1:7411"]):
            done = self.run_cli("pool", "init", "--dir", self.home / "p", *words)
            self.assertEqual(done.returncode, 2, words)
            self.assertIn("would fit", done.stderr)
            self.assertFalse((self.home / "p").exists())

    def test_an_unreachable_coordinator_is_exit_10_with_its_address(self):
        self.run_cli("pool", "init", "--dir", self.home / "pool", "--listen", "127.0.0.1:1")
        done = self.run_cli("status", "--dir", self.home / "pool")
        self.assertEqual(done.returncode, 10, done.stderr)
        self.assertIn("127.0.0.1:1", done.stderr)
        nowhere = self.run_cli("vm", "ls")
        self.assertEqual(nowhere.returncode, 10)
        self.assertIn("operator.json", nowhere.stderr)

    def test_spec_errors_tell_line_and_column(self):
        for text, place, words in (
                ("name: web\nkernal: /k\n", "2:1", "did you mean 'kernel'"),
                ("memory:\n  size: 1GB\n", "2:9", "write 1GiB"),
                ("name: a\nname: b\n", "2:1", "second time"),
                ("name: a\n---\nname: b\n", "3:1", "second document"),
                ("cpu: {vcpus: many}\n", "1:14", "whole number"),
                ("name: [", "", "no YAML")):
            (self.home / "web.yaml").write_text(text)
            done = self.run_cli("vm", "create", "-f", "web.yaml")
            self.assertEqual(done.returncode, 2, text)
            self.assertIn(f"web.yaml:{place}", done.stderr)
            self.assertIn(words, done.stderr)
            from_stdin = self.run_cli("vm", "create", "-f", "-", stdin=text)
            self.assertIn(f"stdin:{place}", from_stdin.stderr)

    def test_errors_are_json_when_json_is_asked_for(self):
        done = self.run_cli("vm", "create", "a", "-o", "json")
        error = json.loads(done.stderr)
        self.assertEqual(error["code"], "GW-1001")
        self.assertEqual(error["exit_code"], done.returncode)
        self.assertIn("retryable", error)
        error = json.loads(self.run_cli("migarte", "-o", "json").stderr)
        self.assertEqual(error["hint"], "godwit migrate")

    def test_completions_parse_and_complete(self):
        script = self.run_cli("completion", "bash").stdout
        (self.home / "godwit.bash").write_text(script)
        subprocess.run(["bash", "-n", self.home / "godwit.bash"], check=True)
        for line, wanted in (("godwit mi", "migrate"), ("godwit vm cr", "create"),
                             ("godwit migrate x --max", "--max-downtime"),
                             ("godwit migrate x --policy ge", "gentle"), ("godwit vm ls -o nd", "ndjson"),
                             ("godwit completion f", "fish")):
            words = line.split(" ")
            ask = (f"source {self.home}/godwit.bash; COMP_WORDS=({' '.join(words)}); "
                   f"COMP_CWORD={len(words) - 1}; _godwit; echo ${{COMPREPLY[*]}}")
            done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
            self.assertIn(wanted, done.stdout.split(), line + done.stderr)
        for shell in ("zsh", "fish"):
            done = self.run_cli("completion", shell)
            self.assertEqual(done.returncode, 0)
            if shutil.which(shell):
                subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)
        self.assertEqual(self.run_cli("completion", "bsh").returncode, 2)

    def test_explain_knows_codes_by_number_and_name(self):
        table = self.run_cli("explain").stdout.splitlines()
        self.assertGreater(len(table), 20)
        for row in table:
            code, name = row.split()[:2]
            self.assertEqual(self.run_cli("explain", code).stdout, self.run_cli("explain", name).stdout)
        self.assertEqual(self.run_cli("explain", "GW-9999").returncode, 3)
        json.loads(self.run_cli("explain", "cpu-compat", "-o", "json").stdout)

    def test_no_escape_codes_reach_a_pipe(self):
        for words in (["--help"], ["doctor"], ["migarte"], ["explain"]):
            done = self.run_cli(*words, TERM="xterm-256color")
            self.assertNotIn("\033", done.stdout + done.stderr)

    def test_doctor_says_what_is_wrong_and_what_to_do(self):
        done = self.run_cli("doctor")
        self.assertEqual(done.returncode, 1)
        self.assertIn("hint: godwit pool init", done.stdout)
        for line in self.run_cli("doctor", "-o", "ndjson").stdout.splitlines():
            self.assertIn(json.loads(line)["verdict"], ("ok", "note", "bad"))

    def test_join_refuses_a_damaged_token(self):
        for token in ("hello", "gw1.", "gw1.AAAA", "gw1." + "A" * 200):
            done = self.run_cli("pool", "join", token, "--dir", self.home / "host")
            self.assertNotEqual(done.returncode, 0)
            self.assertFalse((self.home / "host").exists())


if __name__ == "__main__":
    if not GODWIT.exists():
        print(f"no {GODWIT}")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
