"""Stands in for systemd: holds listening sockets and starts a program with them, again and again.

usage: service-manager.py JSON, an object of
  ports     on 127.0.0.1
  names     LISTEN_FDNAMES
  notify    the address of the NOTIFY_SOCKET
  env       more of the environment; LISTEN_PID=own is the program's, with /dev/null as its descriptor 3
  command   what to start

On standard input: "start". On standard output a line each: "ports" once they are bound, "started PID", "ended PID CODE", "notify JSON".
What the program says goes to standard error.
"""
import json
import os
import socket
import sys
import threading

told = json.loads(sys.argv[1])
lock = threading.Lock()


def say(*words):
    with lock:
        print(*words, flush=True)


def bind(port):
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(511)
    return listening


sockets = [bind(port) for port in told["ports"]]


def notified(datagrams):
    while True:
        say("notify", json.dumps(datagrams.recv(4096).decode()))


if told.get("notify"):
    address = told["notify"]
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind("\0" + address[1:] if address.startswith("@") else address)
    threading.Thread(target=notified, args=(datagrams,), daemon=True).start()


def start():
    pid = os.fork()
    if pid > 0:
        say("started", pid)
        threading.Thread(target=wait, args=(pid,), daemon=True).start()
        return
    # Out of the way of the descriptors from 3 on, which are to be the sockets.
    kept = [os.dup(each.fileno()) for each in sockets]
    kept = [os.dup2(each, 100 + i, inheritable=False) for i, each in enumerate(kept)]
    os.dup2(2, 1)
    for i, each in enumerate(kept):
        os.dup2(each, 3 + i)
    env = {**os.environ, **told.get("env", {})}
    if sockets:
        env.update(LISTEN_FDS=str(len(sockets)), LISTEN_PID=str(os.getpid()))
        if told.get("names"):
            env["LISTEN_FDNAMES"] = told["names"]
    if env.get("LISTEN_PID") == "own":
        env["LISTEN_PID"] = str(os.getpid())
        os.dup2(os.open("/dev/null", os.O_RDONLY), 3)
    if told.get("notify"):
        env["NOTIFY_SOCKET"] = told["notify"]
    os.execvpe(told["command"][0], told["command"], env)


def wait(pid):
    _, status = os.waitpid(pid, 0)
    say("ended", pid, os.waitstatus_to_exitcode(status))


say("ports")
for line in sys.stdin:
    if line.strip() == "start":
        start()
