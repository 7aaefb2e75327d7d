package main

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// serve answers every upgrade with 101 and echoes; any other request gets 200 and is closed.
func serve(address string, every time.Duration) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(conn, every)
	}
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"

func answer(conn net.Conn, every time.Duration) {
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 4096)
	head, err := readHead(reader)
	if err != nil {
		return
	}
	if !strings.Contains(strings.ToLower(head), "\nupgrade:") {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	if _, err := io.WriteString(conn, switching); err != nil {
		return
	}
	early, _ := reader.Peek(reader.Buffered())
	if _, err := conn.Write(early); err != nil {
		return
	}
	if every > 0 {
		go speak(conn, every)
	}
	// What has been read ahead is written; from here on the sockets alone count.
	buffer := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
		if n == len(buffer) {
			break
		}
	}
	// Much is to come, and the kernel echoes it (splice): no copy of ours is measured. That takes a pipe for each tunnel,
	// more descriptors than thousands of idle ones leave.
	io.Copy(conn.(*net.TCPConn), conn.(*net.TCPConn))
}

// speak sends a record every so often, beginning at some moment within the first time, until the connection ends.
func speak(conn net.Conn, every time.Duration) {
	record := make([]byte, recordLength)
	time.Sleep(time.Duration(rand.Int64N(int64(every))))
	for {
		if _, err := conn.Write(record); err != nil {
			return
		}
		time.Sleep(every)
	}
}

func readHead(reader *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return "", err
		}
		head.WriteString(line)
		if line == "\r\n" {
			return head.String(), nil
		}
	}
}
