/*-------------------------------------------------------------------------
 *
 * coarse.c
 *	  Windows that are not exact to the entry, for less memory.
 *
 *	  With a granularity every entry counts as if it had happened at the
 *	  beginning of its cell: time is cut into cells of that length, from
 *	  2000-01-01 UTC on.  So an entry enters and leaves the window earlier than
 *	  it should, by less than the granularity, and never the other way.  Entries
 *	  of one cell come and go together; of them the state keeps what they add up
 *	  to without a window.  Hence it has at most as many items as the window has
 *	  cells, and one more.
 *
 *	  Which cell an entry is in is a function of its time, so nothing depends on
 *	  the order of arrival here either.
 *
 * IDENTIFICATION
 *	  src/traits/coarse.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "miscadmin.h"

#include "traits/state.h"

/* The beginning of the cell that a time is in. */
TimestampTz
CdpCellStart(const CdpStateRules *rules, TimestampTz at)
{
	int64		past;

	if (rules->granularity == 0)
		return at;
	past = at % rules->granularity;
	if (past < 0)
		past += rules->granularity;
	/* the first cell there is may begin before the first time there is */
	return at - past < MIN_TIMESTAMP ? MIN_TIMESTAMP : at - past;
}

/*
 * Rules of what the entries of a cell add up to; they live where the current
 * context does, which must be as long as the rules.
 */
void
CdpCellRules(CdpStateRules *rules)
{
	CdpStateRules *cell = (CdpStateRules *) palloc(sizeof(CdpStateRules));

	CdpStateRulesPlain(cell, rules);
	cell->exact = rules->exact;
	cell->granularity = 0;
	cell->cell = NULL;
	rules->cell = cell;
}

/*
 * The cell with these times, made if there is none.
 */
static CdpItem *
cell_at(CdpState *state, TimestampTz start, TimestampTz begin, TimestampTz end)
{
	int			low = 0;
	int			high = state->nitems;
	CdpItem    *item;

	/* entries mostly arrive in order */
	if (high > 0 && state->items[high - 1].at < start)
		low = high;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (state->items[middle].at < start)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < state->nitems && state->items[low].at == start)
		return &state->items[low];
	CdpStateReserve(state, (int64) state->nitems + 1);
	item = &state->items[low];
	memmove(item + 1, item, (state->nitems - low) * sizeof(CdpItem));
	state->nitems++;
	memset(item, 0, sizeof(CdpItem));
	item->at = start;
	item->begin = begin;
	item->end = end;
	item->value = PointerGetDatum(CdpStateMake(state->rules->cell));
	return item;
}

/*
 * Fold one value or entry in; begin and end are those of its cell.
 */
void
CdpCellAdd(CdpState *state, Datum value, TimestampTz at, TimestampTz begin,
		   TimestampTz end, const text *tie)
{
	CdpItem    *item = cell_at(state, CdpCellStart(state->rules, at), begin, end);

	(void) CdpStateAdd(CdpCellSum(item), value, at, 0, 0, tie);
}

void
CdpCellsCombine(CdpState *into, const CdpState *from)
{
	for (int i = 0; i < from->nitems; i++)
	{
		const CdpItem *item = &from->items[i];

		if ((i & 0xFFF) == 0xFFF)
			CHECK_FOR_INTERRUPTS();
		CdpStateCombine(CdpCellSum(cell_at(into, item->at, item->begin, item->end)),
						CdpCellSum(item));
	}
}

/* ---- cells as bytes ---- */

void
CdpCellsWrite(StringInfo buf, const CdpState *state)
{
	StringInfoData sum;
	TimestampTz at = 0;
	int64		span = 0;

	initStringInfo(&sum);
	CdpPutUInt(buf, state->nitems);
	for (int i = 0; i < state->nitems; i++)
	{
		CdpItem    *item = &state->items[i];

		CdpPutInt(buf, (int64) ((uint64) item->at - (uint64) at));
		if (state->rules->delayed)
			CdpPutInt(buf, (int64) ((uint64) item->begin - (uint64) item->at));
		CdpPutInt(buf, (int64) ((uint64) item->end - (uint64) item->at - (uint64) span));
		span = (int64) ((uint64) item->end - (uint64) item->at);
		at = item->at;
		resetStringInfo(&sum);
		CdpStateWrite(&sum, CdpCellSum(item));
		CdpPutUInt(buf, sum.len);
		appendBinaryStringInfo(buf, sum.data, sum.len);
	}
	pfree(sum.data);
}

void
CdpCellsRead(CdpReader *reader, CdpState *state)
{
	int			n = CdpGetLength(reader);
	TimestampTz at = 0;
	int64		span = 0;

	CdpStateReserve(state, (int64) n + 1);
	for (int i = 0; i < n; i++)
	{
		CdpItem    *item = &state->items[i];
		int			len;

		memset(item, 0, sizeof(CdpItem));
		at = (TimestampTz) ((uint64) at + (uint64) CdpGetInt(reader));
		item->at = item->begin = at;
		if (state->rules->delayed)
			item->begin = (TimestampTz) ((uint64) at + (uint64) CdpGetInt(reader));
		span = (int64) ((uint64) span + (uint64) CdpGetInt(reader));
		item->end = (TimestampTz) ((uint64) at + (uint64) span);
		len = CdpGetLength(reader);
		item->value = PointerGetDatum(CdpStateRead(state->rules->cell,
												   CdpGetBytes(reader, len), len));
	}
	state->nitems = n;
}

void
CdpCellsSend(StringInfo buf, const CdpState *state)
{
	pq_sendint32(buf, state->nitems);
	for (int i = 0; i < state->nitems; i++)
	{
		CdpItem    *item = &state->items[i];

		pq_sendint64(buf, item->at);
		pq_sendint64(buf, item->begin);
		pq_sendint64(buf, item->end);
		CdpStateSend(buf, CdpCellSum(item));
	}
}

static void
bad_cell(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("invalid cells of a state of a trait"),
			 errdetail("%s", detail)));
}

void
CdpCellsReceive(StringInfo buf, CdpState *state)
{
	const CdpStateRules *rules = state->rules;
	int32		n = (int32) pq_getmsgint(buf, 4);

	if (n <= 0 || n > (buf->len - buf->cursor) / 30)
		bad_cell("The number of cells is impossible.");
	CdpStateReserve(state, n);
	for (int i = 0; i < n; i++)
	{
		CdpItem    *item = &state->items[i];
		CdpState   *sum;

		CHECK_FOR_INTERRUPTS();
		memset(item, 0, sizeof(CdpItem));
		item->at = CdpReceiveTime(buf);
		item->begin = CdpReceiveEnd(buf);
		item->end = CdpReceiveEnd(buf);
		if (CdpCellStart(rules, item->at) != item->at ||
			(i > 0 && item->at <= item[-1].at))
			bad_cell("Cells are not in order.");
		if (item->end <= item->begin || (!rules->delayed && item->begin != item->at))
			bad_cell("A window ends before it begins.");
		sum = CdpStateReceive(buf);
		if (!CdpStateRulesSame(sum->rules, rules->cell))
			bad_cell("A sum is of another aggregate.");
		if (CdpStateIsEmpty(sum))
			bad_cell("A cell is empty.");
		sum->rules = rules->cell;
		item->value = PointerGetDatum(sum);
	}
	state->nitems = n;
}
