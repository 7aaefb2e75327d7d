// record-initiation records first messages of ts2021 handshakes as Tailscale's own client makes them.
//
// From the folder with this module's go.mod:
//
//	go run ./record-initiation > ../../../vectors/initiations.json
//
// Every run makes new keys, which are used for nothing else. Before a message is written, Tailscale's own
// server half has to accept it, complete the handshake and name the machine key.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"tailscale.com/control/controlbase"
	"tailscale.com/types/key"
)

// vector is one initiation with all that a reader of it must be given and must find out.
type vector struct {
	Version          uint16 `json:"version"`
	ServerPrivateKey string `json:"serverPrivateKey"` // the form of Headscale's noise_private.key: privkey:<64 hex>
	ServerPublicKey  string `json:"serverPublicKey"`  // mkey:<64 hex>
	MachineKey       string `json:"machineKey"`       // mkey:<64 hex>
	Header           string `json:"header"`           // the value of X-Tailscale-Handshake
}

type recording struct {
	RecordedWith string   `json:"recordedWith"`
	Initiations  []vector `json:"initiations"`
}

func main() {
	result := recording{RecordedWith: "tailscale.com v1.102.3, control/controlbase.ClientDeferred"}
	for _, version := range []uint16{1, 49, 142, 65535} {
		v, err := record(version)
		if err != nil {
			log.Fatalf("version %d: %v", version, err)
		}
		result.Initiations = append(result.Initiations, v)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(result); err != nil {
		log.Fatal(err)
	}
}

func record(version uint16) (vector, error) {
	server, machine := key.NewMachine(), key.NewMachine()
	initiation, proceed, err := controlbase.ClientDeferred(machine, server.Public(), version)
	if err != nil {
		return vector{}, err
	}
	if err := complete(initiation, proceed, server, machine.Public(), version); err != nil {
		return vector{}, err
	}
	private, err := server.MarshalText()
	if err != nil {
		return vector{}, err
	}
	return vector{
		Version:          version,
		ServerPrivateKey: string(private),
		ServerPublicKey:  server.Public().String(),
		MachineKey:       machine.Public().String(),
		Header:           base64.StdEncoding.EncodeToString(initiation),
	}, nil
}

// complete runs the rest of the handshake against Tailscale's server half.
func complete(
	initiation []byte, proceed controlbase.HandshakeContinuation, server key.MachinePrivate,
	machine key.MachinePublic, version uint16,
) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	clientEnd, serverEnd := net.Pipe()
	defer clientEnd.Close()
	defer serverEnd.Close()
	client := make(chan error, 1)
	go func() {
		_, err := proceed(ctx, clientEnd)
		client <- err
	}()
	conn, err := controlbase.Server(ctx, serverEnd, server, initiation)
	if err != nil {
		return fmt.Errorf("the server half refused it: %w", err)
	}
	if err := <-client; err != nil {
		return fmt.Errorf("the client half refused the answer: %w", err)
	}
	if got := conn.Peer(); got != machine {
		return fmt.Errorf("the server half read %v, not %v", got, machine)
	}
	if got := conn.ProtocolVersion(); got != int(version) {
		return fmt.Errorf("the server half read version %d", got)
	}
	return nil
}
