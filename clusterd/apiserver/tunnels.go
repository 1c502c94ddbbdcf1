package apiserver

import (
	"context"
	"net"
	"net/http"
)

// Tunnels reaches the agents through the connections they opened.
type Tunnels interface {
	// Open returns a stream to the agent's HTTP server.
	Open(ctx context.Context, node string) (net.Conn, error)
	// Connected returns the names of the nodes whose agents are connected here.
	Connected() []string
	// ServeUpgrade turns the request of an agent into its tunnel, and blocks while it lives.
	ServeUpgrade(w http.ResponseWriter, r *http.Request, node string)
}

// Issuer lets machines in.
type Issuer interface {
	// Issue signs a certificate request for a node; certificate is PEM.
	Issue(csr []byte, role, name string) (certificate []byte, err error)
	// CA returns the cluster's CA as PEM.
	CA() []byte
	// GossipKey returns the key members gossip with.
	GossipKey() []byte
}
