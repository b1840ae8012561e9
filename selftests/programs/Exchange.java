// SPDX-License-Identifier: GPL-2.0

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.Random;
import jdk.net.ExtendedSocketOptions;

/**
 * Sockets and channels of Java, which -Dcom.sun.sdp.conf moves to SDP: Exchange serve ADDRESS PORT, and
 * Exchange talk ADDRESS PORT. The server has a ServerSocket at the port and a ServerSocketChannel at the next
 * one; both send back what they get, with its length before it.
 */
public final class Exchange {
    private static final int BYTES = 1_500_000;

    private Exchange() {}

    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[2]);
        if (args[0].equals("serve")) {
            serve(args[1], port);
        } else {
            byte[] bytes = new byte[BYTES];
            new Random(27).nextBytes(bytes);
            talk(new InetSocketAddress(args[1], port), bytes);
            talkByChannel(new InetSocketAddress(args[1], port + 1), bytes);
            System.out.println("all came back");
        }
    }

    private static void serve(String address, int port) throws Exception {
        ServerSocket server = new ServerSocket();
        server.setReuseAddress(true);
        server.bind(new InetSocketAddress(address, port), 16);
        ServerSocketChannel channel = ServerSocketChannel.open();
        channel.bind(new InetSocketAddress(address, port + 1), 16);
        System.out.println("listening");
        Thread.ofPlatform().daemon().start(() -> {
            try {
                while (true) {
                    answer(channel.accept().socket());
                }
            } catch (IOException error) {
                error.printStackTrace();
                System.exit(1);
            }
        });
        while (true) {
            answer(server.accept());
        }
    }

    private static void answer(Socket socket) throws IOException {
        try (socket) {
            DataInputStream in = new DataInputStream(socket.getInputStream());
            byte[] bytes = new byte[in.readInt()];
            in.readFully(bytes);
            DataOutputStream out = new DataOutputStream(socket.getOutputStream());
            out.writeInt(bytes.length);
            out.write(bytes);
            out.flush();
            socket.shutdownOutput();
            if (in.read() >= 0) {
                throw new IOException("more than was told");
            }
        }
    }

    private static void same(byte[] sent, byte[] received) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        if (!Arrays.equals(digest.digest(sent), digest.digest(received))) {
            throw new IOException("other bytes came back");
        }
    }

    private static void talk(InetSocketAddress to, byte[] bytes) throws Exception {
        try (Socket socket = new Socket()) {
            socket.connect(to, 20_000);
            socket.setSoTimeout(60_000);
            socket.setTcpNoDelay(true);
            socket.setKeepAlive(true);
            socket.setOption(ExtendedSocketOptions.TCP_KEEPIDLE, 60);
            if (socket.getOption(ExtendedSocketOptions.TCP_KEEPIDLE) != 60) {
                throw new IOException("TCP_KEEPIDLE");
            }
            DataOutputStream out = new DataOutputStream(socket.getOutputStream());
            out.writeInt(bytes.length);
            // The server does not answer before it has all.
            out.write(bytes);
            out.flush();
            DataInputStream in = new DataInputStream(socket.getInputStream());
            byte[] back = new byte[in.readInt()];
            in.readFully(back);
            same(bytes, back);
        }
    }

    private static void talkByChannel(InetSocketAddress to, byte[] bytes) throws Exception {
        Path path = Files.createTempFile("exchange", null);
        Files.write(path, bytes);
        try (SocketChannel channel = SocketChannel.open(); FileChannel file = FileChannel.open(path)) {
            channel.setOption(StandardSocketOptions.SO_KEEPALIVE, true);
            channel.connect(to);
            ByteBuffer head = ByteBuffer.allocate(4).putInt(bytes.length).flip();
            while (head.hasRemaining()) {
                channel.write(head);
            }
            // By sendfile().
            for (long at = 0; at < bytes.length;) {
                at += file.transferTo(at, bytes.length - at, channel);
            }
            ByteBuffer back = ByteBuffer.allocateDirect(4 + bytes.length);
            while (back.hasRemaining() && channel.read(back) >= 0) {
            }
            byte[] received = new byte[bytes.length];
            back.flip().position(4).get(received);
            same(bytes, received);
        } finally {
            Files.delete(path);
        }
    }
}
