package server

import (
	"net"
	"slices"
	"testing"
)

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"": ":7443", "10.0.0.1": "10.0.0.1:7443", "10.0.0.1:": "10.0.0.1:7443", ":1": ":1",
		"api.example": "api.example:7443", "::1": "[::1]:7443", "[::1]:5": "[::1]:5",
	} {
		if got, err := hostPort("--listen", in, DefaultPort); err != nil || got != want {
			t.Errorf("%q became %q (%v), want %q", in, got, err, want)
		}
	}
	bound := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 7443}
	for in, want := range map[string]string{
		"": "10.0.0.1:7443", "api.example": "api.example:7443", "api.example:443": "api.example:443",
	} {
		c := Config{Name: "s1", Advertise: in}
		addr, host, err := c.advertised(bound.String())
		if err != nil || addr != want {
			t.Errorf("advertise %q became %q (%v), want %q", in, addr, err, want)
		}
		if hosts := c.hosts(host); !slices.Contains(hosts, host) || !slices.Contains(hosts, "127.0.0.1") || !slices.Contains(hosts, "localhost") {
			t.Errorf("the certificate is for %v", hosts)
		}
	}
	if addr, host, err := (Config{}).advertised((&net.TCPAddr{IP: net.IPv4zero, Port: 7443}).String()); err == nil && (net.ParseIP(host).IsLoopback() || net.ParseIP(host).IsUnspecified()) {
		t.Errorf("all addresses became %s", addr)
	}
}
