"""A web application on an IPv4-only host: python3 web.py ADDRESS PORT. It says `ready` once it listens.

/         the remote address that it sees
/headers  the request's headers, as they came
/hold     begins an answer and ends it after a request for /release
/data/N   N bytes
"""
import http.server
import sys
import threading

# What every answer to /hold waits for that began after the last /release.
released = threading.Event()


class Application(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global released
        if self.path == "/headers":
            self.answer(str(self.headers).encode())
        elif self.path == "/hold":
            waiting = released
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"begin")
            self.wfile.flush()
            waiting.wait(120)
            self.wfile.write(b"-end\n")
        elif self.path == "/release":
            released.set()
            released = threading.Event()
            self.answer(b"")
        elif self.path.startswith("/data/"):
            self.answer(b"x" * int(self.path[len("/data/"):]))
        else:
            self.answer((self.client_address[0] + "\n").encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Application)
server.daemon_threads = True
print("ready", server.server_address[1], flush=True)
server.serve_forever()
