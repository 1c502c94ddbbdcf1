package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// settle is how long others may go on before the table is looked at.
const settle = 50 * time.Millisecond

// watch calls do after others committed nftables transactions, until ctx is
// done. The kernel multicasts every part of every transaction; a filter lets
// only their last message through, which carries the sender.
func (k *nft) watch(ctx context.Context, do func()) error {
	fd, err := listen(k.ns)
	if err != nil {
		return fmt.Errorf("watch rules: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nftables") // non-blocking: reads wait in the runtime's poller
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	soon := time.AfterFunc(time.Hour, do)
	defer soon.Stop()
	for buf := make([]byte, 8192); ; {
		n, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS): // missed some: look
			soon.Reset(settle)
			continue
		case err != nil:
			return fmt.Errorf("watch rules: %w", err)
		}
		if n >= unix.NLMSG_HDRLEN && binary.NativeEndian.Uint32(buf[12:]) != k.port.Load() {
			soon.Reset(settle)
		}
	}
}

// listen opens a socket that hears of the end of every transaction in ns.
func listen(ns netns.NsHandle) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends in the wrong namespace
		if err = netns.Set(ns); err == nil {
			fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		}
	}()
	<-done
	if err != nil {
		return -1, err
	}
	// nlmsg_type, two bytes at offset 4, as filters load them: big-endian.
	last := uint32(unix.NFNL_SUBSYS_NFTABLES)<<8 | unix.NFT_MSG_NEWGEN
	var swapped [2]byte
	binary.NativeEndian.PutUint16(swapped[:], uint16(last))
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(binary.BigEndian.Uint16(swapped[:]))},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
