/*-------------------------------------------------------------------------
 *
 * canonical.c
 *	  The canonical text of a predicate, and the places in a text where it
 *	  asks for the time.
 *
 *	  PostgreSQL's own scanner cuts the text into tokens; each is written in
 *	  one way (keywords and names in one case, strings in plain quotes), with
 *	  one way of spacing, and comments go.  What the text means does not
 *	  change, since nothing but the spelling of tokens does; and the scanner
 *	  reads no table, so that a dump can be restored in any order.
 *
 *	  A canonical text is its own canonical text.
 *
 * IDENTIFICATION
 *	  src/segments/canonical.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/keywords.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "parser/scanner.h"
#include "utils/builtins.h"

#include "segments/predicate.h"

/*
 * The scanner's tokens.  They are those of the server's grammar, which every
 * grammar that uses the scanner declares in this order (pl_gram.y too).
 */
enum
{
	TOKEN_IDENT = 258, TOKEN_UIDENT, TOKEN_FCONST, TOKEN_SCONST, TOKEN_USCONST,
	TOKEN_BCONST, TOKEN_XCONST, TOKEN_OP, TOKEN_ICONST, TOKEN_PARAM,
	TOKEN_TYPECAST, TOKEN_DOT_DOT, TOKEN_COLON_EQUALS, TOKEN_EQUALS_GREATER,
	TOKEN_LESS_EQUALS, TOKEN_GREATER_EQUALS, TOKEN_NOT_EQUALS,
	TOKEN_KEYWORD = 10000
};

typedef struct Token
{
	int			code;
	int			location;
	int			length;			/* in the source */
	const char *string;			/* value of names, strings and keywords */
} Token;

typedef struct Tokens
{
	int			n;
	int			max;
	Token	   *items;
} Tokens;

/* Written in capitals, followed by a space also before a parenthesis. */
static const char *const upper_keywords[] = {
	"all", "and", "any", "array", "between", "case", "collate", "distinct",
	"else", "end", "from", "ilike", "in", "is", "like", "not", "null", "or",
	"similar", "some", "then", "when"
};

static bool
is_upper_keyword(const char *word)
{
	for (int i = 0; i < lengthof(upper_keywords); i++)
	{
		if (strcmp(upper_keywords[i], word) == 0)
			return true;
	}
	return false;
}

/*
 * Cut a text that is known to be well-formed into tokens.
 */
static void
scan(const char *text, Tokens *tokens)
{
	core_yy_extra_type extra;
	core_yyscan_t scanner;
	uint16	   *codes = palloc(sizeof(uint16) * ScanKeywords.num_keywords);

	for (int i = 0; i < ScanKeywords.num_keywords; i++)
		codes[i] = TOKEN_KEYWORD;
	memset(tokens, 0, sizeof(Tokens));
	tokens->max = 64;
	tokens->items = palloc(tokens->max * sizeof(Token));

	scanner = scanner_init(text, &extra, &ScanKeywords, codes);
	extra.standard_conforming_strings = true;
	extra.escape_string_warning = false;
	extra.backslash_quote = BACKSLASH_QUOTE_SAFE_ENCODING;
	for (;;)
	{
		core_YYSTYPE value;
		YYLTYPE		location;
		int			code = core_yylex(&value, &location, scanner);
		Token	   *token;

		if (code == 0)
			break;
		CHECK_FOR_INTERRUPTS();
		if (tokens->n == tokens->max)
		{
			tokens->max *= 2;
			tokens->items = repalloc(tokens->items, tokens->max * sizeof(Token));
		}
		token = &tokens->items[tokens->n++];
		token->code = code;
		token->location = location;
		/* the scanner has put a NUL behind the token, as pg_stat_statements knows */
		token->length = strlen(extra.scanbuf + location);
		token->string = NULL;
		if (code == TOKEN_KEYWORD)
			token->string = value.keyword;
		else if (code == TOKEN_IDENT || code == TOKEN_SCONST ||
				 code == TOKEN_BCONST || code == TOKEN_XCONST)
			token->string = value.str;
	}
	scanner_finish(scanner);
}

static void
put_quoted(StringInfo out, const char *string, char quote)
{
	appendStringInfoChar(out, quote);
	for (const char *c = string; *c; c++)
	{
		if (*c == quote)
			appendStringInfoChar(out, quote);
		appendStringInfoChar(out, *c);
	}
	appendStringInfoChar(out, quote);
}

/*
 * A name: bare when it reads back as it is, so that "type" and type are one
 * form whether or not this version has a keyword of that name.  Settings do
 * not matter here, as they would to quote_identifier().
 */
static void
put_name(StringInfo out, const char *name)
{
	bool		bare = name[0] == '_' || (name[0] >= 'a' && name[0] <= 'z');
	int			keyword = ScanKeywordLookup(name, &ScanKeywords);

	if (keyword >= 0 &&
		(ScanKeywordCategories[keyword] != UNRESERVED_KEYWORD || is_upper_keyword(name)))
		bare = false;
	for (const char *c = name; *c && bare; c++)
		bare = *c == '_' || (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9');
	if (bare)
		appendStringInfoString(out, name);
	else
		put_quoted(out, name, '"');
}

static void
put_token(StringInfo out, const Token *token, const char *text)
{
	switch (token->code)
	{
		case TOKEN_IDENT:
			put_name(out, token->string);
			break;
		case TOKEN_SCONST:
			put_quoted(out, token->string, '\'');
			break;
		case TOKEN_BCONST:
		case TOKEN_XCONST:
			appendStringInfo(out, "%c'%s'", token->string[0], token->string + 1);
			break;
		case TOKEN_KEYWORD:
			for (const char *c = token->string; *c; c++)
				appendStringInfoChar(out, is_upper_keyword(token->string) ?
									 pg_toupper((unsigned char) *c) : *c);
			break;
		case TOKEN_COLON_EQUALS:
			appendStringInfoString(out, "=>");
			break;
		case TOKEN_NOT_EQUALS:
			appendStringInfoString(out, "<>");
			break;
		default:
			appendBinaryStringInfo(out, text + token->location, token->length);
			break;
	}
}

/* Could this token be the first half of something that is applied to what follows? */
static bool
ends_operand(const Token *token)
{
	switch (token->code)
	{
		case TOKEN_IDENT:
		case TOKEN_UIDENT:
		case TOKEN_FCONST:
		case TOKEN_SCONST:
		case TOKEN_USCONST:
		case TOKEN_BCONST:
		case TOKEN_XCONST:
		case TOKEN_ICONST:
		case TOKEN_PARAM:
		case ')':
		case ']':
			return true;
		case TOKEN_KEYWORD:
			return !is_upper_keyword(token->string) ||
				strcmp(token->string, "null") == 0 || strcmp(token->string, "end") == 0;
		default:
			return false;
	}
}

static bool
is_sign(const Token *token)
{
	return token->code == '-' || token->code == '+';
}

static bool
is_number(const Token *token)
{
	return token->code == TOKEN_ICONST || token->code == TOKEN_FCONST;
}

/*
 * Is there a space between tokens i - 1 and i?  Where in doubt there is one:
 * two tokens are never joined into another.
 */
static bool
spaced(const Tokens *tokens, int i)
{
	const Token *left = &tokens->items[i - 1];
	const Token *right = &tokens->items[i];

	switch (right->code)
	{
		case ')':
		case ',':
		case ']':
		case TOKEN_TYPECAST:
			return false;
		case '.':
			return is_number(left);
		case '(':
			return !(left->code == '(' || left->code == '[' ||
					 left->code == TOKEN_IDENT ||
					 (left->code == TOKEN_KEYWORD && !is_upper_keyword(left->string)));
		case '[':
			return !(left->code == '(' || left->code == '[' || left->code == ')' ||
					 left->code == ']' || left->code == TOKEN_IDENT ||
					 left->code == TOKEN_KEYWORD);
		default:
			break;
	}
	switch (left->code)
	{
		case '(':
		case '[':
		case TOKEN_TYPECAST:
			return false;
		case '.':
			return is_number(right);
		default:
			break;
	}
	/* the sign of a number */
	if (is_sign(left) && is_number(right) && (i < 2 || !ends_operand(&tokens->items[i - 2])))
		return false;
	return true;
}

/*
 * The canonical text of a predicate whose grammar has been checked.
 */
char *
CdpPredicateCanonical(const char *text)
{
	StringInfoData out;
	Tokens		tokens;

	scan(text, &tokens);
	initStringInfo(&out);
	for (int i = 0; i < tokens.n; i++)
	{
		if (i > 0 && spaced(&tokens, i))
			appendStringInfoChar(&out, ' ');
		put_token(&out, &tokens.items[i], text);
	}
	return out.data;
}

static bool
is_keyword(const Token *token, const char *word)
{
	return token->code == TOKEN_KEYWORD && strcmp(token->string, word) == 0;
}

void
CdpPredicateCallSpan(const char *text, int location, int *begin, int *end)
{
	Tokens		tokens;
	int			depth = 0;

	scan(text, &tokens);
	for (int i = 0; i < tokens.n; i++)
	{
		const Token *token = &tokens.items[i];

		if (token->location < location)
			continue;
		if (token->code == '(' && depth++ == 0)
			*begin = token->location + 1;
		if (token->code == ')' && --depth == 0)
		{
			*end = token->location;
			pfree(tokens.items);
			return;
		}
	}
	elog(ERROR, "a call has no end");
}

/*
 * The parts that are joined by OR, or else those that are joined by AND; the
 * text is canonical, so that one blank stands around each of these.
 */
List *
CdpPredicateConditions(const char *text, bool *any)
{
	List	   *parts[2] = {NIL, NIL};	/* by OR, by AND */
	int			start[2] = {0, 0};
	Tokens		tokens;
	int			depth = 0;
	int			between = 0;

	scan(text, &tokens);
	for (int i = 0; i < tokens.n; i++)
	{
		const Token *token = &tokens.items[i];

		if (token->code == '(' || token->code == '[' || is_keyword(token, "case"))
			depth++;
		else if (token->code == ')' || token->code == ']' || is_keyword(token, "end"))
			depth--;
		else if (depth > 0)
			continue;
		else if (is_keyword(token, "between"))
			between++;
		else if (is_keyword(token, "and") && between > 0)
			between--;
		else if (is_keyword(token, "and") || is_keyword(token, "or"))
		{
			int			by = is_keyword(token, "and");

			parts[by] = lappend(parts[by], pnstrdup(text + start[by], token->location - start[by] - 1));
			start[by] = token->location + token->length + 1;
		}
	}
	*any = parts[0] != NIL;
	return lappend(parts[!*any], pstrdup(text + start[!*any]));
}

/*
 * What stands between the parentheses, if the text is nothing but that; else
 * NULL.
 */
char *
CdpPredicateInParentheses(const char *text)
{
	Tokens		tokens;
	int			depth = 0;

	scan(text, &tokens);
	if (tokens.n < 3 || tokens.items[0].code != '(')
		return NULL;
	for (int i = 0; i < tokens.n - 1; i++)
	{
		if (tokens.items[i].code == '(')
			depth++;
		else if (tokens.items[i].code == ')' && --depth == 0)
			return NULL;
	}
	return pnstrdup(text + tokens.items[0].location + 1,
					tokens.items[tokens.n - 1].location - tokens.items[0].location - 1);
}

/*
 * Names of hidden columns cannot be written.
 */
static bool
check_names_walker(Node *node, void *arg)
{
	const char *text = (const char *) arg;

	if (node == NULL)
		return false;
	CHECK_FOR_INTERRUPTS();
	check_stack_depth();
	if (IsA(node, ColumnRef))
	{
		ColumnRef  *column = (ColumnRef *) node;
		Node	   *first = (Node *) linitial(column->fields);

		if (IsA(first, String) && strVal(first)[0] == CDP_HIDDEN_MARK)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("a name cannot begin with a control character"),
					 CdpPredicateErrorPosition(text, column->location)));
		return false;
	}
	return raw_expression_tree_walker(node, check_names_walker, arg);
}

/*
 * Read a predicate's text.  CURRENT_TIMESTAMP and its like are keywords, for
 * which the raw tree has nodes too small to be replaced in place; so the text
 * is given to the grammar with hidden columns of the same length in their
 * stead, and locations stay what they are.
 */
Node *
CdpPredicateParse(const char *text)
{
	static const struct
	{
		const char *keyword;
		char		column;
	}			clocks[] = {
		{"current_date", CDP_HIDDEN_DATE},
		{"current_timestamp", CDP_HIDDEN_NOW},
		{"localtimestamp", CDP_HIDDEN_LOCAL},
	};
	Node	   *raw = CdpParseRaw(text);
	Tokens		tokens;
	char	   *changed = NULL;

	(void) check_names_walker(raw, unconstify(char *, text));
	scan(text, &tokens);
	for (int i = 0; i < tokens.n; i++)
	{
		const Token *token = &tokens.items[i];

		for (int k = 0; token->code == TOKEN_KEYWORD && k < lengthof(clocks); k++)
		{
			if (strcmp(token->string, clocks[k].keyword) != 0)
				continue;
			if (i + 1 < tokens.n && tokens.items[i + 1].code == '(')
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("%s takes no precision in a predicate", token->string),
						 CdpPredicateErrorPosition(text, token->location)));
			if (changed == NULL)
				changed = pstrdup(text);
			memset(changed + token->location, ' ', token->length);
			changed[token->location] = '"';
			changed[token->location + 1] = CDP_HIDDEN_MARK;
			changed[token->location + 2] = clocks[k].column;
			changed[token->location + token->length - 1] = '"';
		}
	}
	return changed == NULL ? raw : CdpParseRaw(changed);
}
