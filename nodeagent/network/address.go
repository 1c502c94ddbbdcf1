package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
)

// lease is an address a pod holds, or none: the pod has the node's network.
type lease struct {
	IP       netip.Addr `json:"ip,omitzero"`
	Hostname string     `json:"hostname"`
}

// hostNetwork reports whether the pod has the node's network.
func (l lease) hostNetwork() bool { return !l.IP.IsValid() }

// leases are the addresses in use, kept in a file.
type leases struct {
	Last netip.Addr       `json:"last"` // handed out last: the search goes on behind it
	Pods map[string]lease `json:"pods"` // by UID

	path   string
	subnet netip.Prefix
}

func openLeases(path string, subnet netip.Prefix) (*leases, error) {
	l := &leases{path: path, subnet: subnet.Masked()}
	switch b, err := os.ReadFile(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(b, l); err != nil {
			return nil, fmt.Errorf("%s: %w: remove the file once no pod runs on the node", path, err)
		}
	}
	if l.Pods == nil {
		l.Pods = map[string]lease{}
	}
	return l, nil
}

// take returns the lease of a pod, a new one if it has none.
func (l *leases) take(uid, hostname string, hostNetwork bool) (lease, error) {
	if have, ok := l.Pods[uid]; ok {
		return have, nil
	}
	before, next := l.Last, lease{Hostname: hostname}
	if !hostNetwork {
		used := make(map[netip.Addr]bool, len(l.Pods))
		for _, p := range l.Pods {
			used[p.IP] = true
		}
		ip, ok := nextAddress(l.subnet, l.Last, used)
		if !ok {
			return lease{}, fmt.Errorf("all %d addresses of %s are in use", len(used), l.subnet)
		}
		l.Last, next.IP = ip, ip
	}
	l.Pods[uid] = next
	if err := l.save(); err != nil {
		delete(l.Pods, uid)
		l.Last = before
		return lease{}, err
	}
	return l.Pods[uid], nil
}

func (l *leases) free(uid string) error {
	have, ok := l.Pods[uid]
	if !ok {
		return nil
	}
	delete(l.Pods, uid)
	if err := l.save(); err != nil {
		l.Pods[uid] = have
		return err
	}
	return nil
}

// nextAddress returns the first free address of subnet behind last, in a
// circle, so that a freed address rests for as long as possible. The first and
// the last address of the subnet are never handed out.
func nextAddress(subnet netip.Prefix, last netip.Addr, used map[netip.Addr]bool) (netip.Addr, bool) {
	first := subnet.Masked().Addr().Next()
	ip := first
	if last.IsValid() && subnet.Contains(last) {
		ip = last.Next()
	}
	for range 1 << (32 - subnet.Bits()) {
		if !subnet.Contains(ip) || !subnet.Contains(ip.Next()) { // outside, or the broadcast address
			ip = first
		}
		if subnet.Contains(ip.Next()) && !used[ip] {
			return ip, true
		}
		ip = ip.Next()
	}
	return netip.Addr{}, false
}

// save replaces the file at once: after a crash it is the old or the new one.
func (l *leases) save() error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return err
	}
	tmp := l.path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, l.path)
}
