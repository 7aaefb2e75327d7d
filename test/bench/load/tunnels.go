package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
)

type target struct {
	address    string
	isTLS      bool
	handshakes []string
	next       atomic.Int64
}

// open makes a tunnel; it answers once before this returns.
func (t *target) open() (net.Conn, error) {
	handshake := ""
	if len(t.handshakes) > 0 {
		handshake = t.handshakes[int(t.next.Add(1)-1)%len(t.handshakes)]
	}
	return t.openWith(handshake, "")
}

func (t *target) openWith(handshake, from string) (net.Conn, error) {
	conn, err := t.dial(from)
	if err != nil {
		return nil, err
	}
	if handshake != "" {
		handshake = "X-Tailscale-Handshake: " + handshake + "\r\n"
	}
	request := "POST /ts2021 HTTP/1.1\r\nHost: bench.test\r\nConnection: upgrade\r\nUpgrade: tailscale-control-protocol\r\nContent-Length: 0\r\n" + handshake + "\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		conn.Close()
		return nil, err
	}
	head, err := readHeadBytewise(conn)
	if err == nil && !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		err = fmt.Errorf("%q", strings.SplitN(head, "\r\n", 2)[0])
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (t *target) dial(from string) (net.Conn, error) {
	dialer := &net.Dialer{}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := dialer.Dial("tcp", t.address)
	if err != nil || !t.isTLS {
		return conn, err
	}
	return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), nil
}

// readHeadBytewise reads no byte behind the head.
func readHeadBytewise(conn net.Conn) (string, error) {
	buffer := make([]byte, 0, 512)
	one := make([]byte, 512)
	for {
		n, err := conn.Read(one)
		if err != nil {
			return "", err
		}
		buffer = append(buffer, one[:n]...)
		if end := strings.Index(string(buffer), "\r\n\r\n"); end >= 0 {
			return string(buffer), nil
		}
	}
}
