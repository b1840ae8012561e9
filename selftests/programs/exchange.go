// SPDX-License-Identifier: GPL-2.0

// A server and a client of HTTP on sockets of family 27, which package net takes by
// FileListener and FileConn: exchange serve ADDRESS PORT FILE, and exchange talk ADDRESS PORT FILE.
// The server has FILE at /file, and sends back what is posted to /echo.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const family = 27

// The descriptor of a new socket, and the address that the arguments name.
func newSocket(address, port string) (int, *syscall.SockaddrInet4, error) {
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("socket: %w", err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return 0, nil, err
	}
	to := &syscall.SockaddrInet4{Port: number}
	copy(to.Addr[:], net.ParseIP(address).To4())
	return fd, to, nil
}

func listen(address, port string) (net.Listener, error) {
	fd, at, err := newSocket(address, port)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	if err := syscall.Bind(fd, at); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	if err := syscall.Listen(fd, 128); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return net.FileListener(file)
}

func dial(address, port string) (net.Conn, error) {
	fd, to, err := newSocket(address, port)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "connection")
	defer file.Close()
	if err := syscall.Connect(fd, to); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T", conn)
	}
	alive := net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 4}
	if err := tcp.SetKeepAliveConfig(alive); err != nil {
		return nil, err
	}
	return tcp, nil
}

func serve(address, port, path string) error {
	listener, err := listen(address, port)
	if err != nil {
		return err
	}
	http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) })
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Write(body)
	})
	fmt.Println("listening")
	return http.Serve(listener, nil)
}

func fetch(client *http.Client, request func() (*http.Response, error), expected []byte) error {
	response, err := request()
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || sha256.Sum256(body) != sha256.Sum256(expected) {
		return fmt.Errorf("status %d, %d bytes and not the %d expected", response.StatusCode, len(body), len(expected))
	}
	return nil
}

func talk(address, port, path string) error {
	expected, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 120 * time.Second, Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(address, port) },
	}}
	base := "http://" + net.JoinHostPort(address, port)
	results := make(chan error)
	var clients sync.WaitGroup
	for number := 0; number < 8; number++ {
		clients.Add(1)
		go func() {
			defer clients.Done()
			for round := 0; round < 3; round++ {
				results <- fetch(client, func() (*http.Response, error) { return client.Get(base + "/file") }, expected)
				part := expected[:len(expected)/(number+2)]
				results <- fetch(client, func() (*http.Response, error) {
					return client.Post(base+"/echo", "application/octet-stream", bytes.NewReader(part))
				}, part)
			}
		}()
	}
	go func() { clients.Wait(); close(results) }()
	count := 0
	for result := range results {
		if result != nil {
			err = result
		}
		count++
	}
	if err == nil {
		fmt.Println(count, "requests answered")
	}
	return err
}

func main() {
	what := map[string]func(address, port, path string) error{"serve": serve, "talk": talk}[os.Args[1]]
	if err := what(os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
