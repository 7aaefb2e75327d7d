// Reads request heads as Headscale does, and says what it found. Each line of its input is a head in base64; for each it writes
// one line of JSON.
//
// Parsing is Go's own. Which path, protocol and handshake count is as in Headscale 0.29 (go-chi's router, hscontrol/noise.go)
// and tailscale's control/controlhttp/controlhttpserver.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"strings"
)

type found struct {
	OK        bool   `json:"ok"`
	IsControl bool   `json:"isControl"`
	Protocol  string `json:"protocol"`
	Handshake string `json:"handshake"`
}

func read(head []byte) found {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return found{}
	}
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	result := found{OK: true, IsControl: path == "/ts2021", Protocol: strings.ToLower(r.Header.Get("Upgrade"))}
	if !result.IsControl {
		return result
	}
	switch result.Protocol {
	case "websocket":
		// What a browser says comes in the query; a mistake anywhere in it ends the session.
		if r.ParseForm() == nil {
			result.Handshake = r.Form.Get("X-Tailscale-Handshake")
		}
	case "tailscale-control-protocol":
		result.Handshake = r.Header.Get("X-Tailscale-Handshake")
	}
	return result
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	for in.Scan() {
		head, err := base64.StdEncoding.DecodeString(in.Text())
		if err != nil {
			panic(err)
		}
		line, _ := json.Marshal(read(head))
		out.Write(append(line, '\n'))
		out.Flush()
	}
}
