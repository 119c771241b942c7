/*-------------------------------------------------------------------------
 *
 * of_members.c
 *	  Predicates about the members of an account: any_member(), all_members(),
 *	  count_members().
 *
 *	  Such a call stands on a hidden trait of accounts over their members, which
 *	  counts those for whom the predicate is true (traits/account.c).  That
 *	  trait wants a text over traits of profiles, so the calls in the predicate
 *	  are replaced in its text by what they have become: expressions over
 *	  hidden traits of profiles, which are called $ and their id.
 *
 * IDENTIFICATION
 *	  src/segments/of_members.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"

#include "segments/words.h"

/* What can be asked of a member: what follows from his traits alone. */
static const char *const member_words[] = {
	"count_of", "did", "did_not", "first_time", "member_of", "sum_of"
};

/*
 * Refuse a word that says more than a trait can; members: the call in whose
 * predicate it stands.
 */
void
CdpMembersCheckWord(const char *word, const char *members, const char *text, int location)
{
	for (int i = 0; i < lengthof(member_words); i++)
		if (strcmp(member_words[i], word) == 0)
			return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 strcmp(word, "now") == 0
			 ? errmsg("the current time cannot be used in the predicate of %s()", members)
			 : errmsg(strcmp(word, "account") == 0 ? "%s.… cannot be used in the predicate of %s()"
					  : "%s() cannot be used in the predicate of %s()", word, members),
			 strcmp(word, "now") == 0
			 ? errhint("To ask what happened lately, use did(…, within => '…').")
			 : errhint("It may have traits of profiles, did(), did_not(), count_of(), sum_of(), first_time() and member_of()."),
			 CdpPredicateErrorPosition(text, location)));
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
				appendStringInfo(out, "%d", intVal(&((const A_Const *) node)->val));
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
