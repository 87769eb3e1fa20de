"""The vendor's own host, for clients whose URL is fixed: a CONNECT proxy that answers in its place.

    vendor_host.py PORT CERTIFICATE TARGET_PORT

A client goes to api.getbase.com:443 through 127.0.0.1:PORT, believes CERTIFICATE (certificate and key in one file),
and speaks with 127.0.0.1:TARGET_PORT. Any other host is out of reach: 502.
"""

import socket
import ssl
import sys
import threading

HOST = "api.getbase.com:443"
port, certificate, target = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)


def serve(client):
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65536:
        data = client.recv(4096)
        if not data:
            return
        head += data
    asked = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if asked[:2] != ["CONNECT", HOST]:
        client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return
    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    secure = context.wrap_socket(client, server_side=True)
    # One thread for both directions: a TLS socket must not be read and written at once.
    with socket.create_connection(("127.0.0.1", target)) as server, secure:
        exchange(secure, server)


def exchange(secure, server):
    secure.settimeout(0.02)
    server.settimeout(0.02)
    open_ends = True
    while open_ends:
        for source, sink in ((secure, server), (server, secure)):
            try:
                data = source.recv(65536)
            except (TimeoutError, socket.timeout):
                continue
            except OSError:
                data = b""
            if not data:
                open_ends = False
                break
            sink.settimeout(30)
            sink.sendall(data)
            sink.settimeout(0.02)


def guarded(client):
    with client:
        try:
            serve(client)
        except OSError:
            pass


with socket.create_server(("127.0.0.1", port)) as listener:
    print(f'{{"listening": {port}}}', flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=guarded, args=(connection,), daemon=True).start()
