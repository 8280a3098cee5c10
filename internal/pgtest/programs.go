package pgtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoPrograms says that the machine has no PostgreSQL server programs. Nothing was started.
var ErrNoPrograms = errors.New("the PostgreSQL server programs (initdb, postgres) are not installed; " +
	"install your system's PostgreSQL server package, for example Debian's `postgresql`")

// packagePatterns lists the folders outside PATH where distributions keep the server programs, one for each version.
var packagePatterns = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // Red Hat, from postgresql.org
	"/usr/libexec/postgresql*",  // Alpine
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// findPrograms returns the folder of initdb and postgres. It tries the folder that pg_config names, then PATH, then the
// newest version that a package installed.
func findPrograms() (string, error) {
	var candidates []string
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil { //nolint:noctx // answers at once
		candidates = append(candidates, strings.TrimSpace(string(out)))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		// A link in PATH may point to the folder with all programs of one version.
		if target, err := filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, filepath.Dir(target))
		}
	}
	for _, pattern := range packagePatterns {
		if found, err := filepath.Glob(pattern); err == nil {
			candidates = append(candidates, newestFirst(found)...)
		}
	}
	for _, dir := range candidates {
		if complete(dir) {
			return dir, nil
		}
	}
	return "", ErrNoPrograms
}

// complete says whether dir holds the programs that a cluster needs.
func complete(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// newestFirst orders folders by the version in their name, the highest first.
func newestFirst(dirs []string) []string {
	return slices.SortedStableFunc(slices.Values(dirs), func(a, b string) int { return version(b) - version(a) })
}

// version returns the first number in path, such as 15 in /usr/lib/postgresql/15/bin, or 0 if there is none.
func version(path string) int {
	start := strings.IndexAny(path, "0123456789")
	if start < 0 {
		return 0
	}
	digits := path[start:]
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = digits[:end]
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}
