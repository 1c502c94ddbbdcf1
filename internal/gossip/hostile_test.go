package gossip

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
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

// sealed is a packet as who has the key sends it.
func sealed(t *testing.T, key, packet []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, gcm.NonceSize())
	rand.Read(nonce)
	return gcm.Seal(append([]byte{1}, nonce...), nonce, packet, nil)
}

// overheard is a log, of which some is read.
type overheard chan string

func (o overheard) Write(b []byte) (int, error) {
	select {
	case o <- string(b):
	default:
	}
	return len(b), nil
}

// TestMembersPackets: who has the key may lie about members, and cannot take one
// down with packets that are none: cut, nested, or of lengths beyond reason.
func TestMembersPackets(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	lines := make(overheard, 1000)
	a := run(t, Config{Name: "a", Bind: "127.0.0.1:0", Keys: [][]byte{key}, Log: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: lines})})
	c, err := net.Dial("udp", a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	bodies := [][]byte{
		{}, {0}, {0x80}, {0x90}, {0xc0}, {0xc1}, {0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{0x81}, 1000), bytes.Repeat([]byte{0x91}, 1000), bytes.Repeat([]byte{7, 1, 0, 2}, 300),
	}
	for _, long := range []byte{0xc6, 0xc9, 0xdb, 0xdd, 0xdf} { // as many as fit 32 bits
		bodies = append(bodies, []byte{long, 0xff, 0xff, 0xff, 0xff}, []byte{0x82, 0xa4, 'N', 'o', 'd', 'e', long, 0xff, 0xff, 0xff, 0xff}, []byte{0x81, 0xa3, 'B', 'u', 'f', long, 0x7f, 0xff, 0xff, 0xff})
	}
	const last = 200 // a type that there is not
	for kind := range byte(16) {
		for _, body := range append(bodies, nil) {
			if _, err := c.Write(sealed(t, key, append([]byte{kind}, body...))); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := time.NewTicker(50 * time.Millisecond) // packets get lost
	defer again.Stop()
	for limit := time.After(30 * time.Second); ; {
		select {
		case line := <-lines:
			if strings.Contains(line, "Decrypt packet failed") {
				t.Fatalf("it did not look at what was sent: %s", line)
			}
			if !strings.Contains(line, "(200) not supported") {
				continue
			}
		case <-again.C:
			if _, err := c.Write(sealed(t, key, []byte{last})); err != nil {
				t.Fatal(err)
			}
			continue
		case <-limit:
			t.Fatal("it answers no more")
		}
		break
	}
	if got := states(a); !strings.Contains(got, "a=alive") {
		t.Errorf("it sees %s", got)
	}
}
