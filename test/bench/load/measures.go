package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const warmUp = time.Second

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

// upgrades measures what is there once it is warm: a Node process compiles what it does often.
func upgrades(t *target, lasting time.Duration, clients int) any {
	before, _ := upgradesFor(t, warmUp, clients)
	started := time.Now()
	made, failed := upgradesFor(t, lasting, clients)
	perS := float64(made) / time.Since(started).Seconds()
	return map[string]any{"perS": perS, "failed": failed, "madeInAll": before + made}
}

func upgradesFor(t *target, lasting time.Duration, clients int) (int64, int64) {
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
				if overTLS, isTLS := conn.(*tls.Conn); isTLS {
					conn = overTLS.NetConn()
				}
				conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
		}()
	}
	done.Wait()
	return made.Load(), failed.Load()
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

func contests(t *target, count int, oldFrom, newFrom string) any {
	if len(t.handshakes) < 2*count {
		log.Fatalf("%d contests need %d handshakes", count, 2*count)
	}
	// Kept open, each for itself.
	open := make([]net.Conn, 2*count)
	from := func(i int, address string) {
		conn, err := t.openWith(t.handshakes[i], address)
		if err != nil {
			log.Fatalf("opening a stream from %s: %v", address, err)
		}
		open[i] = conn
	}
	for i := range count {
		from(2*i, oldFrom)
	}
	print(map[string]any{"open": count})
	bufio.NewReader(os.Stdin).ReadString('\n')
	took := make([]time.Duration, count)
	var done sync.WaitGroup
	for i := range count {
		done.Add(1)
		go func() {
			defer done.Done()
			started := time.Now()
			from(2*i+1, newFrom)
			took[i] = time.Since(started)
		}()
	}
	done.Wait()
	slices.Sort(took)
	at := func(share float64) float64 { return float64(took[int(share*float64(count-1))].Microseconds()) / 1e3 }
	return map[string]any{"p50ms": at(0.5), "p99ms": at(0.99)}
}
