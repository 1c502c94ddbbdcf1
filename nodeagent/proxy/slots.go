package proxy

import (
	"hash/fnv"
	"net/netip"
	"slices"
)

// classes are the numbers of slots a frontend may have. A share is a whole
// number of slots: 12 are exact for 1, 2, 3, 4, 6 and 12 pods.
var classes = [...]int{12, 60, 240, 960}

// classOf returns how many slots n pods get: the fewest that are exact or
// leave no pod with more than a quarter above another. Sticky frontends only
// change class when they must, because that sends clients to other pods. More
// than 960 pods do not all get a slot on every node.
func classOf(n int, sticky bool) int {
	for _, c := range classes {
		if sticky && c == classes[0] {
			continue
		}
		if c >= 4*n || !sticky && n > 0 && c%n == 0 {
			return c
		}
	}
	return classes[len(classes)-1]
}

// assign gives each of size slots a pod, in shares that differ by one at most.
// Of the slots in have, only those of pods that are gone or have too many get
// another pod. The result depends on nothing else, so that every node sends a
// sticky client to the same pod.
func assign(have, pods []netip.AddrPort, size int, f Frontend) []netip.AddrPort {
	if len(pods) == 0 {
		return nil
	}
	pods = shuffled(pods, f)
	slots := make([]netip.AddrPort, size)
	if len(have) == size {
		copy(slots, have)
	}
	held := make(map[netip.AddrPort]int, len(pods))
	for _, pod := range slots {
		held[pod]++
	}
	// Everybody gets share slots. The extra ones stay with pods that have more.
	share, extra := size/len(pods), size%len(pods)
	quota := make(map[netip.AddrPort]int, len(pods))
	for _, pod := range pods {
		if quota[pod] = share; held[pod] > share && extra > 0 {
			quota[pod]++
			extra--
		}
	}
	for _, pod := range pods {
		if extra > 0 && quota[pod] == share {
			quota[pod]++
			extra--
		}
	}
	var free []int
	for i, pod := range slots {
		if quota[pod] > 0 {
			quota[pod]--
		} else {
			free = append(free, i)
		}
	}
	for next := 0; len(free) > 0; next = (next + 1) % len(pods) {
		if pod := pods[next]; quota[pod] > 0 {
			quota[pod]--
			slots[free[0]] = pod
			free = free[1:]
		}
	}
	return slots
}

// shuffled orders pods by a hash of their own, so that the extra slots of
// different frontends fall to different pods.
func shuffled(pods []netip.AddrPort, f Frontend) []netip.AddrPort {
	hash := func(pod netip.AddrPort) uint64 {
		h := fnv.New64a()
		h.Write([]byte(f.String()))
		h.Write([]byte(pod.String()))
		return h.Sum64()
	}
	keys := make(map[netip.AddrPort]uint64, len(pods))
	for _, pod := range pods {
		keys[pod] = hash(pod)
	}
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b netip.AddrPort) int {
		switch x, y := keys[a], keys[b]; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return a.Compare(b)
	})
	return pods
}
