package main

import (
	"errors"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func throughput(t *target, lasting time.Duration, tunnels int) any {
	var echoed atomic.Int64
	var done sync.WaitGroup
	conns := make([]net.Conn, tunnels)
	for i := range conns {
		conns[i] = mustOpen(t)
	}
	started := time.Now()
	if t.isTLS {
		return throughputOfTLS(conns, lasting)
	}
	for _, conn := range conns {
		done.Add(2)
		go func() {
			defer done.Done()
			zeros := bulk()
			defer zeros.Close()
			for time.Since(started) < filling+lasting {
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
				echoed.Add(int64(n))
				if n == 0 || err != nil {
					conn.Close()
					return
				}
			}
		}()
	}
	rate := rateOf(&echoed, lasting)
	for _, conn := range conns {
		conn.SetDeadline(time.Now().Add(time.Second))
	}
	done.Wait()
	return map[string]any{"mbPerS": rate}
}

// filling is when the kernels' buffers fill up: what goes in then does not come back yet.
const filling = 1500 * time.Millisecond

// rateOf tells how many megabytes a second are added, once the buffers are full.
func rateOf(echoed *atomic.Int64, lasting time.Duration) float64 {
	time.Sleep(filling)
	before, from := echoed.Load(), time.Now()
	time.Sleep(lasting)
	return float64(echoed.Load()-before) / 1e6 / time.Since(from).Seconds()
}

// throughputOfTLS cannot leave the bytes to the kernel.
func throughputOfTLS(conns []net.Conn, lasting time.Duration) any {
	var echoed atomic.Int64
	started := time.Now()
	for _, conn := range conns {
		go func() {
			block := make([]byte, 64<<10)
			for time.Since(started) < filling+lasting {
				if _, err := conn.Write(block); err != nil {
					return
				}
			}
		}()
		go func() {
			block := make([]byte, 64<<10)
			for {
				n, err := conn.Read(block)
				echoed.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	return map[string]any{"mbPerS": rateOf(&echoed, lasting)}
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
