// load measures what stands between it and its own upstream, which answers every upgrade and echoes what comes.
//
//	load upstream ADDRESS
//	load latency    ADDRESS HANDSHAKES SECONDS
//	load throughput ADDRESS HANDSHAKES SECONDS TUNNELS
//	load upgrades   ADDRESS HANDSHAKES SECONDS CLIENTS
//	load idle       ADDRESS HANDSHAKES TUNNELS
//
// HANDSHAKES is a file with values of X-Tailscale-Handshake, a line each, which are used in turn; with "-" none is sent.
// Each prints one JSON object. idle prints when all tunnels are open, and holds them until its input ends.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A record as Headscale sends it to keep a map stream alive: 3 bytes header, 107 sealed.
const recordLength = 110

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: load upstream|latency|throughput|upgrades|idle ADDRESS …")
	}
	if os.Args[1] == "upstream" {
		log.Fatal(serve(os.Args[2]))
	}
	target := &target{address: os.Args[2], handshakes: readLines(os.Args[3])}
	var result any
	switch os.Args[1] {
	case "latency":
		result = latency(target, seconds(4))
	case "throughput":
		result = throughput(target, seconds(4), number(5))
	case "upgrades":
		result = upgrades(target, seconds(4), number(5))
	case "idle":
		idle(target, number(4))
		return
	default:
		log.Fatalf("no such measure: %s", os.Args[1])
	}
	print(result)
}

func print(result any) {
	text, err := json.Marshal(result)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}

func number(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		log.Fatal(err)
	}
	return n
}

func seconds(i int) time.Duration { return time.Duration(number(i)) * time.Second }

func readLines(path string) []string {
	if path == "-" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	return strings.Fields(string(text))
}

// serve answers every upgrade with 101 and echoes; any other request gets 200 and is closed.
func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(conn)
	}
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"

func answer(conn net.Conn) {
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
	// What has been read ahead is written. From here on the kernel echoes (splice): no copy of ours is measured.
	io.Copy(conn.(*net.TCPConn), conn.(*net.TCPConn))
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

type target struct {
	address    string
	handshakes []string
	next       atomic.Int64
}

// open makes a tunnel; it answers once before this returns.
func (t *target) open() (net.Conn, error) {
	conn, err := net.Dial("tcp", t.address)
	if err != nil {
		return nil, err
	}
	handshake := ""
	if len(t.handshakes) > 0 {
		handshake = "X-Tailscale-Handshake: " + t.handshakes[int(t.next.Add(1)-1)%len(t.handshakes)] + "\r\n"
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

func mustOpen(t *target) net.Conn {
	conn, err := t.open()
	if err != nil {
		log.Fatalf("opening a tunnel: %v", err)
	}
	return conn
}

func latency(t *target, lasting time.Duration) any {
	conn := mustOpen(t)
	record, back := make([]byte, recordLength), make([]byte, recordLength)
	var took []time.Duration
	for until := time.Now().Add(lasting); time.Now().Before(until); {
		started := time.Now()
		if _, err := conn.Write(record); err != nil {
			log.Fatal(err)
		}
		if _, err := io.ReadFull(conn, back); err != nil {
			log.Fatal(err)
		}
		took = append(took, time.Since(started))
	}
	slices.Sort(took)
	at := func(share float64) float64 { return float64(took[int(share*float64(len(took)-1))].Nanoseconds()) / 1e3 }
	return map[string]any{"p50us": at(0.5), "p99us": at(0.99), "trips": len(took)}
}

func throughput(t *target, lasting time.Duration, tunnels int) any {
	var echoed atomic.Int64
	var done sync.WaitGroup
	conns := make([]net.Conn, tunnels)
	for i := range conns {
		conns[i] = mustOpen(t)
	}
	started := time.Now()
	for _, conn := range conns {
		done.Add(2)
		go func() {
			defer done.Done()
			zeros := bulk()
			defer zeros.Close()
			for time.Since(started) < lasting {
				zeros.Seek(0, io.SeekStart)
				if _, err := io.Copy(conn, zeros); err != nil {
					return
				}
			}
			conn.(*net.TCPConn).CloseWrite()
		}()
		go func() {
			defer done.Done()
			for {
				n, err := discard(conn.(*net.TCPConn))
				if time.Since(started) < lasting {
					echoed.Add(int64(n))
				}
				if n == 0 || err != nil {
					conn.Close()
					return
				}
			}
		}()
	}
	time.Sleep(lasting)
	total := echoed.Load()
	for _, conn := range conns {
		conn.SetDeadline(time.Now().Add(time.Second))
	}
	done.Wait()
	return map[string]any{"mbPerS": float64(total) / 1e6 / lasting.Seconds()}
}

// bulk is a file to be sent by the kernel (sendfile), without a copy of ours.
func bulk() *os.File {
	file, err := os.CreateTemp("", "bench-bulk-")
	if err != nil {
		log.Fatal(err)
	}
	os.Remove(file.Name())
	if _, err := file.Write(make([]byte, 1<<20)); err != nil {
		log.Fatal(err)
	}
	return file
}

// room is never written to.
var room = make([]byte, 1<<20)

// discard takes what has come in, without copying it (MSG_TRUNC, see tcp(7)).
func discard(conn *net.TCPConn) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
		var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, _, failed = syscall.Recvfrom(int(fd), room, syscall.MSG_TRUNC)
		return failed != syscall.EAGAIN
	})
	return n, errors.Join(err, failed)
}

func upgrades(t *target, lasting time.Duration, clients int) any {
	var made, failed atomic.Int64
	var done sync.WaitGroup
	started := time.Now()
	for range clients {
		done.Add(1)
		go func() {
			defer done.Done()
			for time.Since(started) < lasting {
				conn, err := t.open()
				if err != nil {
					failed.Add(1)
					continue
				}
				made.Add(1)
				// No TIME_WAIT is to be left for each.
				conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
		}()
	}
	done.Wait()
	return map[string]any{"perS": float64(made.Load()) / time.Since(started).Seconds(), "failed": failed.Load()}
}

func idle(t *target, tunnels int) {
	conns := make([]net.Conn, tunnels)
	var done sync.WaitGroup
	turns := make(chan int)
	for range 32 {
		done.Add(1)
		go func() {
			defer done.Done()
			for i := range turns {
				conns[i] = mustOpen(t)
			}
		}()
	}
	for i := range conns {
		turns <- i
	}
	close(turns)
	done.Wait()
	print(map[string]any{"open": tunnels})
	io.Copy(io.Discard, os.Stdin)
	for _, conn := range conns {
		conn.Close()
	}
}
