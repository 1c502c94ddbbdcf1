package gossip

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

// FuzzPacket sends a member whatever strangers may, by UDP and TCP: nobody comes,
// goes or changes for it, and it still answers.
func FuzzPacket(f *testing.F) {
	key := bytes.Repeat([]byte{7}, 32)
	a, err := Open(Config{Name: "a", Bind: "127.0.0.1:0", Keys: [][]byte{key}, Seeds: func() []string { return nil }})
	if err != nil {
		f.Fatal(err)
	}
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { defer close(ended); a.Run(ctx) }()
	f.Cleanup(func() { cancel(); <-ended })
	for _, s := range []string{"", "\x00", "\x01ping", "\x06\xff\xff\xff\xff", "\x07\x00\x00", "\x09", "\x0a\x01", "\x0b\x00\xff\xff", "\x0c\x00\x00\x00\x00", "\x0d", strings.Repeat("\x08", 1400), strings.Repeat("\x07\x01\x00\x01", 300)} {
		f.Add([]byte(s))
	}
	before := states(a)
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, network := range []string{"udp", "tcp"} {
			c, err := net.Dial(network, a.Addr())
			if err != nil {
				t.Fatalf("%s: %v", network, err)
			}
			c.SetDeadline(time.Now().Add(time.Second))
			_, _ = c.Write(packet[:min(len(packet), 1<<15)])
			c.Close()
		}
		if got := states(a); got != before {
			t.Fatalf("after %q it sees %s, and saw %s", packet, got, before)
		}
	})
}
