// load measures what stands between it and its own upstream, which answers every upgrade and echoes what comes.
//
//	load upstream ADDRESS [SECONDS]
//	load latency    ADDRESS HANDSHAKES SECONDS
//	load throughput ADDRESS HANDSHAKES SECONDS TUNNELS
//	load upgrades   ADDRESS HANDSHAKES SECONDS CLIENTS
//	load idle       ADDRESS HANDSHAKES TUNNELS
//	load contests   ADDRESS HANDSHAKES CONTESTS OLD_FROM NEW_FROM
//
// HANDSHAKES is a file with values of X-Tailscale-Handshake, a line each, which are used in turn; with "-" none is sent.
// tls:ADDRESS is spoken to in TLS, whatever its certificate. Each prints one JSON object.
//
// upstream sends each of its tunnels a record every so many seconds, as Headscale does; by default never.
// idle prints when all tunnels are open, and holds them until its input ends.
// contests opens that many streams from the address OLD_FROM, says so, waits for a line, and opens one more of each node
// from NEW_FROM, all at once: how long each waits for its 101. Here two lines in turn of HANDSHAKES are of one machine key.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"
)

// A record as Headscale sends it to keep a map stream alive: 3 bytes header, 107 sealed.
const recordLength = 110

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: load upstream|latency|throughput|upgrades|idle|contests ADDRESS …")
	}
	if os.Args[1] == "upstream" {
		var every time.Duration
		if len(os.Args) > 3 {
			every = seconds(3)
		}
		log.Fatal(serve(os.Args[2], every))
	}
	address, isTLS := strings.CutPrefix(os.Args[2], "tls:")
	target := &target{address: address, isTLS: isTLS, handshakes: readLines(os.Args[3])}
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
	case "contests":
		result = contests(target, number(4), os.Args[5], os.Args[6])
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
