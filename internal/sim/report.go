//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// value is one figure and its unit.
type value struct {
	n    float64
	unit string
}

// report prints one line of Go's benchmark format: n operations that took all
// together so long.
func report(name string, n int, took time.Duration, values ...value) {
	fmt.Printf("BenchmarkSim%s-%d\t%8d\t%12.0f ns/op", name, runtime.NumCPU(), n, float64(took.Nanoseconds())/float64(max(n, 1)))
	for _, v := range values {
		fmt.Printf("\t%10.4g %s", v.n, v.unit)
	}
	fmt.Println()
}

// timed returns how long f took.
func timed(f func() error) (time.Duration, error) {
	began := time.Now()
	err := f()
	return time.Since(began), err
}

// quantile returns the q-th of times, 0 to 1, in milliseconds.
func quantile(times []time.Duration, q float64) float64 {
	slices.Sort(times)
	return float64(times[min(int(q*float64(len(times))), len(times)-1)].Microseconds()) / 1000
}

// load is what else the machine does.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
