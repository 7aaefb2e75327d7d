// stun-server answers a client that asks for its own address, so that the client need not wait to find out
// that nobody answers.
package main

import (
	"context"
	"log"
	"os"

	"tailscale.com/net/stunserver"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: stun-server HOST:PORT")
	}
	server := stunserver.New(context.Background())
	if err := server.Listen(os.Args[1]); err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		log.Fatal(err)
	}
}
