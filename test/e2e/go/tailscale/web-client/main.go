// web-client is a node that reaches its control server as a browser does: over a WebSocket, with the handshake in the query.
// It does what Tailscale's own client for browsers does (control/controlhttp/client_js.go) with the same packages, and then
// registers and asks for a map stream. It prints a line when the first network map has come.
//
//	web-client SERVER-URL STATE-FILE [AUTH-KEY]
//
// The state file keeps its keys: with the same file it is the same node again.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/coder/websocket"
	"tailscale.com/control/controlbase"
	"tailscale.com/control/ts2021"
	"tailscale.com/net/wsconn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const capability = 142

// state is what makes this the same node after a restart.
type state struct {
	Machine key.MachinePrivate
	Node    key.NodePrivate
	Disco   key.DiscoPrivate `json:"-"`
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: web-client SERVER-URL STATE-FILE [AUTH-KEY]")
	}
	st, err := loadState(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	client, err := dial(context.Background(), os.Args[1], st)
	if err != nil {
		log.Fatalf("connecting: %v", err)
	}
	if len(os.Args) > 3 {
		if err := register(client, st, os.Args[3]); err != nil {
			log.Fatalf("registering: %v", err)
		}
	}
	if err := stream(client, st); err != nil {
		log.Fatalf("map stream: %v", err)
	}
}

func loadState(path string) (*state, error) {
	if text, err := os.ReadFile(path); err == nil {
		st := &state{Disco: key.NewDisco()}
		return st, json.Unmarshal(text, st)
	}
	st := &state{Machine: key.NewMachine(), Node: key.NewNode(), Disco: key.NewDisco()}
	text, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	return st, os.WriteFile(path, text, 0o600)
}

// dial opens the WebSocket and the Noise session in it.
func dial(ctx context.Context, server string, st *state) (*http.Client, error) {
	serverKey, err := serverKeyOf(server)
	if err != nil {
		return nil, err
	}
	initiation, proceed, err := controlbase.ClientDeferred(st.Machine, serverKey, capability)
	if err != nil {
		return nil, err
	}
	query := url.Values{"X-Tailscale-Handshake": {base64.StdEncoding.EncodeToString(initiation)}}
	at := "ws" + strings.TrimPrefix(server, "http") + "/ts2021?" + query.Encode()
	ws, _, err := websocket.Dial(ctx, at, &websocket.DialOptions{Subprotocols: []string{"tailscale-control-protocol"}})
	if err != nil {
		return nil, err
	}
	session, err := proceed(ctx, wsconn.NetConn(ctx, ws, websocket.MessageBinary, at))
	if err != nil {
		return nil, err
	}
	conn := ts2021.NewConn(session, func() {})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{
		Protocols:   protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}, nil
}

func serverKeyOf(server string) (key.MachinePublic, error) {
	var answer struct{ PublicKey key.MachinePublic }
	response, err := http.Get(fmt.Sprintf("%s/key?v=%d", server, capability))
	if err != nil {
		return answer.PublicKey, err
	}
	defer response.Body.Close()
	return answer.PublicKey, json.NewDecoder(response.Body).Decode(&answer)
}

func register(client *http.Client, st *state, authKey string) error {
	response, err := post(client, "/machine/register", tailcfg.RegisterRequest{
		Version:  capability,
		NodeKey:  st.Node.Public(),
		Auth:     &tailcfg.RegisterResponseAuth{AuthKey: authKey},
		Hostinfo: &tailcfg.Hostinfo{Hostname: "browser", BackendLogID: "browser", OS: "js"},
	})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer tailcfg.RegisterResponse
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != "" || !answer.MachineAuthorized {
		return fmt.Errorf("not authorized: %q", answer.Error)
	}
	return nil
}

// stream asks for network maps, and reads them for as long as there are any.
func stream(client *http.Client, st *state) error {
	response, err := post(client, "/machine/map", tailcfg.MapRequest{
		Version:   capability,
		KeepAlive: true,
		NodeKey:   st.Node.Public(),
		DiscoKey:  st.Disco.Public(),
		Stream:    true,
		Hostinfo:  &tailcfg.Hostinfo{Hostname: "browser", BackendLogID: "browser", OS: "js"},
	})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	for first := true; ; first = false {
		var length uint32
		if err := binary.Read(response.Body, binary.LittleEndian, &length); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, response.Body, int64(length)); err != nil {
			return err
		}
		if first {
			fmt.Println("the first network map has come")
		}
	}
}

func post(client *http.Client, path string, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	// The host is that of the session, whatever stands here.
	response, err := client.Post("http://unused"+path, "application/json", bytes.NewReader(text))
	if err == nil && response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return response, err
}
