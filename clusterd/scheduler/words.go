package scheduler

import "fmt"

// lacks says that nodes have too little of what: free now, or at all.
func lacks(refused []int, free, all []int64, want int64, text func(int64) string, what string) string {
	n := len(refused)
	has := text(most(free, refused)) + " free"
	if total := most(all, refused); total < want {
		has = text(total)
	}
	if n > 1 {
		has += " at most"
	}
	return fmt.Sprintf("%d %s %s %s and %s %s", n, plural(n, "needs", "need"), text(want), what, plural(n, "has", "have"), has)
}

func most(free []int64, of []int) (m int64) {
	for _, i := range of {
		m = max(m, free[i])
	}
	return m
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func milli(n int64) string {
	if n%1000 == 0 && n > 0 {
		return fmt.Sprint(n / 1000)
	}
	return fmt.Sprintf("%dm", n)
}

func mebi(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%dGi", n>>30)
	case n%(1<<20) == 0 || n > 100<<20:
		return fmt.Sprintf("%dMi", n>>20)
	}
	return fmt.Sprintf("%dKi", n>>10)
}
