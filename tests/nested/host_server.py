"""The command server of an emulated host: one JSON request a line on a virtio port, one JSON answer each.

  {"id": 1, "run": [words], "stdin": "...", "timeout": 60}   -> {"id": 1, "rc": 0, "out": "...", "err": "..."}
  {"id": 2, "start": [words], "log": "/tmp/x.log"}           -> {"id": 2, "pid": 77}
  {"id": 3, "signal": 77, "number": 9, "wait": true}         -> {"id": 3, "rc": -9}
  {"id": 4, "poll": 77}                                      -> {"id": 4, "rc": null | exit code}
"""
import json
import os
import pathlib
import subprocess
import threading

OUTPUT_BYTES_MAX = 4 << 20
started = {}
answer_lock = threading.Lock()


def run(request):
    try:
        done = subprocess.run(request["run"], input=request.get("stdin", "").encode(), check=False,
                              capture_output=True, timeout=request.get("timeout", 60),
                              env={**os.environ, **request.get("env", {})})
    except subprocess.TimeoutExpired as late:
        return {"rc": 124, "out": text(late.stdout), "err": text(late.stderr) + "timeout"}
    return {"rc": done.returncode, "out": text(done.stdout), "err": text(done.stderr)}


def text(raw):
    return (raw or b"")[-OUTPUT_BYTES_MAX:].decode(errors="replace")


def start(request):
    with open(request["log"], "ab") as log:
        process = subprocess.Popen(request["start"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env={**os.environ, **request.get("env", {})})
    started[process.pid] = process
    return {"pid": process.pid}


def signal(request):
    process = started[request["signal"]]
    process.send_signal(request["number"])
    return {"rc": process.wait(request.get("timeout", 30)) if request.get("wait") else process.poll()}


def poll(request):
    return {"rc": started[request["poll"]].poll()}


def answer(port, request):
    try:
        kind = next(k for k in ("run", "start", "signal", "poll") if k in request)
        result = {"run": run, "start": start, "signal": signal, "poll": poll}[kind](request)
    except Exception as error:  # whatever goes wrong is told to who asked
        result = {"error": f"{type(error).__name__}: {error}"}
    line = json.dumps({"id": request.get("id"), **result}).encode() + b"\n"
    with answer_lock:
        while line:
            line = line[os.write(port, line):]


def main():
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["LC_ALL"] = "C.UTF-8"
    name = next(p.parent.name for p in pathlib.Path("/sys/class/virtio-ports").glob("*/name")
                if p.read_text().strip() == "godwit.command")
    port = os.open(f"/dev/{name}", os.O_RDWR)
    answer(port, {"id": 0, "run": ["uname", "-r"]})
    pending = b""
    while True:
        got = os.read(port, 65536)
        if not got:
            break
        *lines, pending = (pending + got).split(b"\n")
        for line in lines:
            threading.Thread(target=answer, args=(port, json.loads(line)), daemon=True).start()


main()
