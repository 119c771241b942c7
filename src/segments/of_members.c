/*-------------------------------------------------------------------------
 *
 * of_members.c
 *	  Predicates about the members of an account: any_member(), all_members(),
 *	  count_members().
 *
 *	  any_member(in_segment('s')) and its like count the members who are in a
 *	  segment of profiles.  Predicates that say more than a trait can, such as
 *	  where somebody is when time passes, are made such a segment, which is
 *	  hidden (unnamed.c).  The others stand on a hidden trait of accounts over
 *	  their members, which counts those for whom the predicate is true
 *	  (traits/account.c).  That trait wants a text over traits of profiles, so
 *	  the calls in the predicate are replaced in its text by what they have
 *	  become: expressions over hidden traits of profiles, which are called $ and
 *	  their id.
 *
 * IDENTIFICATION
 *	  src/segments/of_members.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "segments/words.h"

/* What can be asked of a member: what follows from his traits alone. */
static const char *const member_words[] = {
	"count_of", "did", "did_not", "first_time", "member_of", "sum_of"
};

/* What cannot be asked of a member. */
static const char *const words_about_members[] = {
	"all_members", "any_member", "count_members"
};

static bool
is_one_of(const char *word, const char *const *words, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(words[i], word) == 0)
			return true;
	return false;
}

/* What is found in a predicate about members. */
typedef struct MembersScan
{
	const char *members;		/* the word before it */
	const char *text;
	bool		more;			/* more than a trait can say */
	List	   *segments;		/* calls of in_segment (FuncCall *) */
} MembersScan;

static void
refuse(const MembersScan *scan, const char *word, int location)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s cannot be used in the predicate of %s()", word, scan->members),
			 errdetail("What an account is follows from its members."),
			 CdpPredicateErrorPosition(scan->text, location)));
}

static bool
scan_walker(Node *node, void *arg)
{
	MembersScan *scan = (MembersScan *) arg;

	if (node == NULL)
		return false;
	CHECK_FOR_INTERRUPTS();
	check_stack_depth();
	if (IsA(node, ColumnRef))
	{
		const List *fields = ((ColumnRef *) node)->fields;
		const Node *first = (const Node *) linitial(fields);

		if (!IsA(first, String))
			return false;
		if (list_length(fields) == 2 && strcmp(strVal(first), "account") == 0)
			refuse(scan, "account.…", ((ColumnRef *) node)->location);
		/* CURRENT_DATE and its like */
		scan->more |= strVal(first)[0] == CDP_HIDDEN_MARK;
		return false;
	}
	if (IsA(node, FuncCall) && CdpVocabularyCall((FuncCall *) node))
	{
		const char *word = strVal(llast(((FuncCall *) node)->funcname));

		if (is_one_of(word, words_about_members, lengthof(words_about_members)))
			refuse(scan, psprintf("%s()", word), ((FuncCall *) node)->location);
		if (is_one_of(word, member_words, lengthof(member_words)))
			return false;
		scan->more = true;
		if (strcmp(word, "in_segment") == 0)
		{
			scan->segments = lappend(scan->segments, node);
			return false;
		}
	}
	return raw_expression_tree_walker(node, scan_walker, arg);
}

/*
 * Does the predicate say more than a trait can, so that a segment of profiles
 * has to stand for it?  members: the word before it; *segments: its calls of
 * in_segment (FuncCall *).
 */
bool
CdpMembersNeedSegment(const char *members, Node *predicate, const char *text, List **segments)
{
	MembersScan scan = {members, text};

	(void) scan_walker(predicate, &scan);
	*segments = scan.segments;
	return scan.more;
}

/*
 * Is it nothing but in_segment(…)?
 */
bool
CdpMembersOfSegment(const Node *predicate)
{
	const List *name = IsA(predicate, FuncCall) ? ((const FuncCall *) predicate)->funcname : NIL;

	return name != NIL && strcmp(strVal(llast(name)), "in_segment") == 0 &&
		(list_length(name) == 1 || strcmp(strVal(linitial(name)), "cdp") == 0);
}

/*
 * Error when that segment, whose id is known by now, has no members yet.
 */
void
CdpMembersSegmentBuilt(const CdpTerm *term, const char *text)
{
	CdpSegmentSet *set;

	PushActiveSnapshot(GetTransactionSnapshot());
	set = CdpSegmentSetGet(-1, CdpTraitSetFresh());
	PopActiveSnapshot();
	if (CdpSegmentWaits(set, CdpSegmentColumn(set, term->id)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("segment \"%s\" is being built", term->name),
				 errhint("See cdp.progress; cdp.wait_backfill() waits for it."),
				 CdpPredicateErrorPosition(text, term->name_location)));
}

/*
 * Members decide what accounts are, so what decides about members must not ask
 * for the traits of their accounts.
 */
void
CdpMembersSegmentCheck(const CdpSegmentDefinition *definition, const CdpReferences *references)
{
	static const char *const circle =
		"WITH RECURSIVE d(id, name, entity, segment_ids, names) AS ("
		" SELECT s.id, s.name, s.entity, s.segment_ids, s.trait_names"
		" FROM cdp.segment_definitions s WHERE s.id <> $1"
		" UNION ALL SELECT $1, $2, $3, $4, $5),"
		" r(id, account) AS ("
		" SELECT unnest(d.segment_ids), d.name FROM d WHERE d.entity = 'account'"
		" UNION SELECT unnest(d.segment_ids), r.account"
		" FROM r JOIN d ON d.id = r.id AND d.entity = 'profile')"
		" SELECT r.account, d.name FROM r JOIN d ON d.id = r.id AND d.entity = 'profile'"
		" WHERE EXISTS (SELECT FROM unnest(d.names) n WHERE starts_with(n, '" CDP_ACCOUNT_PREFIX "'))"
		" ORDER BY r.account, d.name LIMIT 1";
	Oid			types[] = { INT4OID, TEXTOID, TEXTOID, INT4ARRAYOID, TEXTARRAYOID };
	Datum		values[5];
	CdpUserContext saved;

	values[0] = Int32GetDatum(definition->id);
	values[1] = CStringGetTextDatum(definition->name);
	values[2] = CStringGetTextDatum(definition->accounts ? "account" : "profile");
	values[3] = CdpListDatum(references->segment_ids);
	values[4] = CdpTextsDatum(references->names, references->nnames);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(circle, lengthof(types), types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for segments about members");
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("segment \"%s\" asks about members by a segment that asks about their accounts",
						SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
				 errdetail("\"%s\" reads traits of the primary account.",
						   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2))));
	SPI_finish();
	CdpRestoreUser(&saved);
}

/*
 * The nodes that take the place of those words; hidden columns as their
 * number between marks.
 */
static void
put_node(StringInfo out, const Node *node)
{
	switch (nodeTag(node))
	{
		case T_ColumnRef:
			appendStringInfo(out, "%c%d%c", CDP_HIDDEN_MARK,
							 CdpHiddenColumn(strVal(linitial(((const ColumnRef *) node)->fields))),
							 CDP_HIDDEN_MARK);
			break;
		case T_A_Expr:
			appendStringInfoChar(out, '(');
			put_node(out, ((const A_Expr *) node)->lexpr);
			appendStringInfo(out, " %s ", strVal(linitial(((const A_Expr *) node)->name)));
			put_node(out, ((const A_Expr *) node)->rexpr);
			appendStringInfoChar(out, ')');
			break;
		case T_BoolExpr:
		case T_CoalesceExpr:
		{
			bool		is_and = IsA(node, BoolExpr);
			List	   *args = is_and ? ((const BoolExpr *) node)->args :
								  ((const CoalesceExpr *) node)->args;

			appendStringInfoString(out, is_and ? "(" : "COALESCE(");
			put_node(out, linitial(args));
			appendStringInfoString(out, is_and ? " AND " : ", ");
			put_node(out, lsecond(args));
			appendStringInfoChar(out, ')');
			break;
		}
		case T_A_Const:
			if (IsA(&((const A_Const *) node)->val, Boolean))
				appendStringInfoString(out, "false");
			else
				appendStringInfo(out, "%d", ((const A_Const *) node)->val.ival.ival);
			break;
		default:
			elog(ERROR, "unexpected node type: %d", (int) nodeTag(node));
	}
}

static int
by_location(const ListCell *a, const ListCell *b)
{
	return ((CdpMemberCall *) lfirst(a))->location - ((CdpMemberCall *) lfirst(b))->location;
}

/*
 * The predicate of the call at that place of the text, with the calls in it
 * (CdpMemberCall *) replaced; *predicate: as it is written.
 */
char *
CdpMembersText(const char *text, int location, const List *calls, char **predicate)
{
	List	   *sorted = list_copy(calls);
	StringInfoData out;
	int			begin = 0;
	int			end = 0;
	int			copied;
	ListCell   *lc;

	CdpPredicateCallSpan(text, location, &begin, &end);
	*predicate = pnstrdup(text + begin, end - begin);
	if (strchr(*predicate, CDP_HIDDEN_MARK) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a predicate about members must not contain the control character \\x01"),
				 CdpPredicateErrorPosition(text, location)));
	list_sort(sorted, by_location);
	initStringInfo(&out);
	copied = begin;
	foreach(lc, sorted)
	{
		CdpMemberCall *call = (CdpMemberCall *) lfirst(lc);
		int			inner;

		CHECK_FOR_INTERRUPTS();
		appendBinaryStringInfo(&out, text + copied, call->location - copied);
		put_node(&out, call->node);
		CdpPredicateCallSpan(text, call->location, &inner, &copied);
		copied++;
	}
	appendBinaryStringInfo(&out, text + copied, end - copied);
	return out.data;
}

/*
 * The same with the names of hidden traits, which are known by now.
 */
char *
CdpMembersFilter(const char *members, const List *terms)
{
	StringInfoData out;

	if (members == NULL)
		return NULL;
	initStringInfo(&out);
	while (*members != '\0')
	{
		char	   *after;

		if (*members != CDP_HIDDEN_MARK)
		{
			appendStringInfoChar(&out, *members++);
			continue;
		}
		appendStringInfo(&out, "\"$%d\"",
						 ((CdpTerm *) list_nth(terms, (int) strtol(members + 1, &after, 10)))->id);
		members = after + 1;
	}
	return out.data;
}
