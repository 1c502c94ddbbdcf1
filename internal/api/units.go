package api

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CPU is an amount of processor time: "500m" is half a core, "2" two cores.
type CPU string

// Milli returns thousandths of a core.
func (c CPU) Milli() int64 { n, _ := ParseCPU(string(c)); return n }

// ParseCPU reads "250m", "0.5" or "2" as thousandths of a core.
func ParseCPU(s string) (int64, error) {
	if m, ok := strings.CutSuffix(s, "m"); ok {
		if n, err := strconv.ParseUint(m, 10, 40); err == nil {
			return int64(n), nil
		}
	} else if decimalRE.MatchString(s) {
		if f, err := strconv.ParseFloat(s, 64); err == nil && f <= 1e6 {
			return int64(f*1000 + 0.5), nil
		}
	}
	return 0, fmt.Errorf("%q is not an amount of cpu: want cores such as \"2\" or \"0.5\", or thousandths such as \"250m\"", s)
}

var decimalRE = regexp.MustCompile(`^\d{1,7}(\.\d{1,3})?$`)

// Memory is an amount of memory: "64Mi", "1Gi", "500M" or bytes.
type Memory string

// Bytes returns the amount in bytes.
func (m Memory) Bytes() int64 { n, _ := ParseMemory(string(m)); return n }

var memoryUnits = []struct {
	suffix string
	bytes  int64
}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"", 1}}

// ParseMemory reads "64Mi", "1.5Gi", "500M" or "1048576" as bytes.
func ParseMemory(s string) (int64, error) {
	for _, u := range memoryUnits {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok || !decimalOrInt(num) {
			continue
		}
		f, err := strconv.ParseFloat(num, 64)
		if err != nil || f*float64(u.bytes) > 1<<60 {
			break
		}
		return int64(f * float64(u.bytes)), nil
	}
	return 0, fmt.Errorf("%q is not an amount of memory: want a number with a unit, such as \"64Mi\" or \"1Gi\"", s)
}

func decimalOrInt(s string) bool { return bytesRE.MatchString(s) }

var bytesRE = regexp.MustCompile(`^\d{1,18}(\.\d{1,3})?$`)

// Duration is a span of time as text: "500ms", "5s", "1m30s".
type Duration string

// D returns the span.
func (d Duration) D() time.Duration { v, _ := time.ParseDuration(string(d)); return v }

func (d Duration) check(least, most time.Duration) error {
	if d == "" {
		return nil
	}
	v, err := time.ParseDuration(string(d))
	if err != nil {
		return fmt.Errorf("%q is not a duration: want a number with a unit, such as \"500ms\", \"5s\" or \"1m30s\"", string(d))
	}
	if v < least || v > most {
		return fmt.Errorf("%s is out of range: want between %s and %s", v, least, most)
	}
	return nil
}

// Port is a port a container listens on: "80", or "53/udp".
type Port string

// Number returns the port number, 0 if p is malformed.
func (p Port) Number() int { n, _, _ := p.Parse(); return n }

// Protocol returns "tcp" or "udp".
func (p Port) Protocol() string { _, proto, _ := p.Parse(); return proto }

// Parse splits p into number and protocol.
func (p Port) Parse() (number int, protocol string, err error) {
	num, proto, ok := strings.Cut(string(p), "/")
	if !ok {
		proto = "tcp"
	}
	n, err := strconv.Atoi(num)
	switch {
	case err != nil || strconv.Itoa(n) != num:
		return 0, "", fmt.Errorf("%q is not a port: want a number such as \"80\", or \"53/udp\"", string(p))
	case n < 1 || n > 65535:
		return 0, "", fmt.Errorf("port %d is out of range: want 1 to 65535", n)
	case proto != "tcp" && proto != "udp":
		return 0, "", fmt.Errorf("protocol %q is unknown: want tcp or udp", proto)
	}
	return n, proto, nil
}

var nameRE = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName accepts a DNS label that starts with a letter.
func CheckName(s string) error {
	if s == "" {
		return errors.New("required")
	}
	if !nameRE.MatchString(s) {
		return fmt.Errorf("%q is not a name: want lower-case letters, digits and dashes, starting with a letter, at most 63", s)
	}
	return nil
}

var labelRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$`)

func checkLabels(m map[string]string) error {
	var errs Errors
	for _, k := range sortedKeys(m) {
		if !labelRE.MatchString(k) {
			errs.Addf(keyPath(k), "label key: want letters, digits, '.', '_', '/' and '-', at most 63")
		}
		if v := m[k]; v != "" && !labelRE.MatchString(v) {
			errs.Addf(keyPath(k), "label value: want letters, digits, '.', '_', '/' and '-', at most 63")
		}
	}
	return errs.Err()
}

var plainKeyRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// keyPath renders a map key as a step of a field path: web, or ["a b"].
func keyPath(k string) string {
	if plainKeyRE.MatchString(k) {
		return k
	}
	return fmt.Sprintf("[%q]", k)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func checkCPU(c CPU) error {
	if c == "" {
		return nil
	}
	_, err := ParseCPU(string(c))
	return err
}

func checkMemory(m Memory) error {
	if m == "" {
		return nil
	}
	_, err := ParseMemory(string(m))
	return err
}
