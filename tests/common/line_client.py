"""Holds one connection: python3 line_client.py ADDRESS PORT. Sends each line of its input, prints each line that comes."""
import socket
import sys

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
stream = connection.makefile("rwb", buffering=0)
print("connected", flush=True)
for line in sys.stdin:
    stream.write(line.encode())
    print(stream.readline().decode().rstrip("\n"), flush=True)
