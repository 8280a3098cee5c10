package outboxtest

// Moved lists the columns that Advance moves, as "table.column".
func Moved() (columns []string) {
	for _, a := range agings {
		for _, column := range a.columns {
			columns = append(columns, a.table+"."+column)
		}
	}
	return columns
}
