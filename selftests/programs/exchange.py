#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""An asyncio server and its clients, on sockets of family 27:

exchange.py serve ADDRESS PORT
exchange.py talk ADDRESS PORT CLIENTS BYTES

The server sends back what it gets; at the end of the stream it adds a file, by sendfile()."""

import asyncio
import hashlib
import random
import socket
import sys
import tempfile

AF_INET_SDP = 27
TRAILER = random.Random(27).randbytes(300_000)


def stream_socket():
    """A socket of SDP that Python takes for one of IPv4, as its addresses are."""
    sock = socket.socket(AF_INET_SDP, socket.SOCK_STREAM)
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=sock.detach())


async def answer(reader, writer):
    """One client."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with tempfile.TemporaryFile() as file:
        file.write(TRAILER)
        file.seek(0)
        loop = asyncio.get_running_loop()
        await loop.sendfile(writer.transport, file, fallback=False)
    writer.close()
    await writer.wait_closed()


async def serve(address, port):
    """Serves until it is killed."""
    sock = stream_socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    server = await asyncio.start_server(answer, sock=sock)
    async with server:
        print("listening", flush=True)
        await server.serve_forever()


async def talk_once(number, address, port, count):
    """A client: what comes back is what went, and the trailer."""
    sock = stream_socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address, port))
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == AF_INET_SDP
    assert sock.getpeername() == (address, port), sock.getpeername()
    reader, writer = await asyncio.open_connection(sock=sock)
    data = random.Random(number).randbytes(count)

    async def send():
        for start in range(0, count, 10_000):
            writer.write(data[start : start + 10_000])
            await writer.drain()
        writer.write_eof()

    _, back = await asyncio.gather(send(), reader.read())
    assert hashlib.sha256(back).digest() == hashlib.sha256(data + TRAILER).digest(), len(back)
    writer.close()
    await writer.wait_closed()


async def talk(address, port, clients, count):
    """Many clients at once."""
    await asyncio.gather(*(talk_once(number, address, port, count) for number in range(clients)))
    print(f"{clients} clients, {clients * (count + len(TRAILER))} bytes came back")


if __name__ == "__main__":
    what, where, at, *numbers = sys.argv[1:]
    asyncio.run({"serve": serve, "talk": talk}[what](where, int(at), *map(int, numbers)))
